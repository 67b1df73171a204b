/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The one BPF object: every mechanism's programs over one set of maps. src/sensor loads only the programs of the mechanism that was
 * chosen; the others are never shown to the verifier.
 */
#include "tracepoint.bpf.c"
#include "process.bpf.c"
#include "kprobe.bpf.c"
#include "lsm.bpf.c"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
