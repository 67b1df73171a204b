# Two commands do everything on a fresh Debian 12, as root: `make run` and `make test`. Both install what is missing.
MAKEFLAGS += --no-print-directory
VM_KERNELS ?= debian-6.1 debian-6.12 override-6.12
CONFIG ?= policies/sensitive-files.yaml
RULES ?= rules

.PHONY: run build test test-all bench clean deps format tidy vm-kernels help

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

## make run     install what is missing, build, watch this host's sensitive files and detect (CONFIG=policy.yaml for another policy, RULES=DIR for other rules)
run: build
	build/vfsguard run --config $(CONFIG) --rules $(RULES)

## make build   install what is missing, build build/vfsguard (release)
build:
	@scripts/install-deps build
	@test -f build/build.ninja || cmake --preset release -DVFSGUARD_TESTS=OFF
	@cmake --build build --target vfsguard

## make test    install what is missing, build everything, run every test: unit, host kernel, three kernels in QEMU
test:
	@scripts/test-all

## make test-all  the long tests that make test leaves out: the kernel's own tests, ten minutes of random operations, every file system
test-all:
	@scripts/test-long

## make bench   measure this build beside its peers; table on standard output, JSON in build/bench.json
bench: build
	@scripts/install-deps build bench
	@bench/run

## make clean   remove the build tree (fetched kernels stay in the user's cache)
clean:
	rm -rf build

format:
	@git ls-files '*.cpp' '*.h' | grep -v '^bpf/' | xargs clang-format-19 -i
