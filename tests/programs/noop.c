/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest program: exits with 0, opens nothing. Built without a C library, for 64 and for 32 bits, so that an exec gives the
 * exec's own event and no other.
 */
void _start(void)
{
#ifdef __x86_64__
	__asm__ volatile("syscall" : : "a"(60), "D"(0));
#else
	__asm__ volatile("int $0x80" : : "a"(1), "b"(0));
#endif
	__builtin_unreachable();
}
