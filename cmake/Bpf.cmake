# SPDX-License-Identifier: Apache-2.0
# vfsguard_bpf_object(NAME SOURCE [DEFINITION...]): compiles a BPF object and makes NAME.skel.h of it, behind the target NAME_bpf_skeleton.
find_program(BPF_CLANG NAMES clang-19 clang REQUIRED)
find_program(BPF_STRIP NAMES llvm-strip-19 llvm-strip REQUIRED)
find_program(BPFTOOL NAMES bpftool PATHS /usr/sbin /sbin REQUIRED)

function(vfsguard_bpf_object name source)
  set(object ${CMAKE_BINARY_DIR}/generated/${name}.bpf.o)
  set(header ${CMAKE_BINARY_DIR}/generated/${name}.skel.h)
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/generated)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${BPF_CLANG} -g -O2 -mcpu=v3 -target bpf -D__TARGET_ARCH_x86 -I/usr/include/${CMAKE_LIBRARY_ARCHITECTURE}
            -I${CMAKE_SOURCE_DIR}/bpf -Wall -Werror -Wno-unused-function ${ARGN} -MD -MF ${object}.d -c ${CMAKE_SOURCE_DIR}/${source} -o ${object}
    COMMAND ${BPF_STRIP} -g ${object}
    DEPENDS ${CMAKE_SOURCE_DIR}/${source}
    DEPFILE ${object}.d
    COMMENT "BPF ${source}"
    VERBATIM)
  add_custom_command(
    OUTPUT ${header}
    COMMAND sh -c "${BPFTOOL} gen skeleton ${object} name ${name}_bpf > ${header}.tmp && mv ${header}.tmp ${header}"
    DEPENDS ${object}
    VERBATIM)
  add_custom_target(${name}_bpf_object DEPENDS ${header})
  add_library(${name}_bpf_skeleton INTERFACE)
  target_include_directories(${name}_bpf_skeleton SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/generated)
  add_dependencies(${name}_bpf_skeleton ${name}_bpf_object)
endfunction()
