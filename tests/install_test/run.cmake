# Installs BUILD_DIR into WORK_DIR, then builds and runs the consumer against it: through find_package, shared and
# static, C++ and C, and through pkg-config; README.md's first call too. Run by CTest with BUILD_DIR, SOURCE_DIR, WORK_DIR,
# VERSION, GENERATOR, C_COMPILER, CXX_COMPILER.
cmake_minimum_required(VERSION 3.25)

# Runs a command; a failure ends the test with the command's output.
function(run)
  execute_process(COMMAND ${ARGV} WORKING_DIRECTORY ${WORK_DIR} RESULT_VARIABLE code OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT code EQUAL 0)
    list(JOIN ARGV " " command)
    message(FATAL_ERROR "exit ${code}: ${command}\n${output}")
  endif()
  string(STRIP "${output}" output)
  set(output "${output}" PARENT_SCOPE)
endfunction()

set(prefix ${WORK_DIR}/prefix)
file(REMOVE_RECURSE ${WORK_DIR})
file(MAKE_DIRECTORY ${WORK_DIR})
run(${CMAKE_COMMAND} --install ${BUILD_DIR} --prefix ${prefix})

run(${CMAKE_COMMAND} -S ${SOURCE_DIR}/consumer -B ${WORK_DIR}/build -G ${GENERATOR} -DCMAKE_PREFIX_PATH=${prefix}
    -DCMAKE_C_COMPILER=${C_COMPILER} -DCMAKE_CXX_COMPILER=${CXX_COMPILER})
run(${CMAKE_COMMAND} --build ${WORK_DIR}/build)
foreach(program consumer_cpp consumer_c consumer_static)
  run(${WORK_DIR}/build/${program})
  message(STATUS "${program}: ${output}")
endforeach()

file(GLOB pc_files ${prefix}/*/pkgconfig/gla.pc ${prefix}/lib/*/pkgconfig/gla.pc)
if(NOT pc_files)
  message(FATAL_ERROR "no gla.pc under ${prefix}")
endif()
cmake_path(GET pc_files PARENT_PATH pc_dir)
set(ENV{PKG_CONFIG_PATH} ${pc_dir})
run(pkg-config --modversion gla)
if(NOT output STREQUAL VERSION)
  message(FATAL_ERROR "pkg-config says version '${output}', the project says '${VERSION}'")
endif()
run(pkg-config --cflags --libs gla)
separate_arguments(flags UNIX_COMMAND "${output}")
run(pkg-config --variable=libdir gla)
# The installed headers must be clean under the strictest warnings of whoever includes them.
set(strict -std=c++20 -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror)
run(${CXX_COMPILER} ${strict} ${SOURCE_DIR}/consumer/consumer.cpp -o ${WORK_DIR}/by_pkg_config ${flags} -Wl,-rpath,${output})
run(${WORK_DIR}/by_pkg_config)
message(STATUS "by pkg-config: ${output}")

file(READ ${SOURCE_DIR}/../../README.md readme)
if(NOT readme MATCHES "```cpp\n([^`]+)```")
  message(FATAL_ERROR "README.md has no first call in C++")
endif()
file(WRITE ${WORK_DIR}/first_call.cpp "${CMAKE_MATCH_1}")
run(${CXX_COMPILER} ${strict} -c ${WORK_DIR}/first_call.cpp -o ${WORK_DIR}/first_call.o ${flags})

foreach(file bin/gla-tune share/bash-completion/completions/gla-tune)
  if(NOT EXISTS ${prefix}/${file})
    message(FATAL_ERROR "not installed: ${file}")
  endif()
endforeach()

# The emulator needs nothing of the source tree.
set(ENV{GLA_CACHE_DIR} ${WORK_DIR}/cache)
run(${prefix}/bin/gla-tune verify --emulate --op recurrent_forward --head-dims 16 --sample 1)
message(STATUS "installed gla-tune: ${output}")
