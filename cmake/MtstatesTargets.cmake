# Small helpers, so that each target is one line.

# The excepted warning is about <sys/sdt.h>.
set(MTSTATES_WARNINGS
    -Wall -Wextra -Wpedantic -Wshadow -Wcast-align -Wundef -Wvla
    $<$<C_COMPILER_ID:Clang,AppleClang>:-Wno-gnu-zero-variadic-macro-arguments>
    $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition>)

# Flags of everything that we compile ourselves.
function(mtstates_compile_options target)
  target_compile_options(${target} PRIVATE ${MTSTATES_WARNINGS}
                         $<$<BOOL:${MTSTATES_WERROR}>:-Werror> -fno-omit-frame-pointer -fno-plt)
endfunction()

# Tests load the module as built, and one as `carray` is where that is not installed. ASan keeps freed
# memory for a while, 256 MB of it if one lets it: more than some tests allow.
set(MTSTATES_TEST_ENVIRONMENT
    "LUA_CPATH=${CMAKE_BINARY_DIR}/?.so\\;\\;${CMAKE_BINARY_DIR}/test/?.so"
    "MTSTATES_TEST_IMAGE=${MTSTATES_IMAGE}"
    "ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1:quarantine_size_mb=64"
    "UBSAN_OPTIONS=print_stacktrace=1"
    "TSAN_OPTIONS=suppressions=${CMAKE_SOURCE_DIR}/test/tsan.supp:allocator_may_return_null=1:atexit_sleep_ms=100")

# The thread sanitizer delivers a signal only at the next call of libc that it watches: loops that are
# to be interrupted make one when this is set.
if(MTSTATES_SANITIZE MATCHES thread)
  list(APPEND MTSTATES_TEST_ENVIRONMENT MTSTATES_TEST_TSAN=1)
endif()

# Some tests run for as long as MTSTATES_TEST_SECONDS says.
set(MTSTATES_TEST_TIMEOUT 900)
if("$ENV{MTSTATES_TEST_SECONDS}" MATCHES "^[0-9]+")
  math(EXPR MTSTATES_TEST_TIMEOUT "900 + 2 * ${CMAKE_MATCH_0}")
endif()

# mtstates_add_test(name command...): a test that runs in the source folder.
function(mtstates_add_test name)
  add_test(NAME ${name} COMMAND ${ARGN} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "${MTSTATES_TEST_ENVIRONMENT}" TIMEOUT ${MTSTATES_TEST_TIMEOUT})
endfunction()

# mtstates_c_test(name source...): a C program that has the module inside, with a Lua of its own.
function(mtstates_c_test name)
  add_executable(test_${name} ${ARGN})
  mtstates_compile_options(test_${name})
  target_link_libraries(test_${name} PRIVATE mtstates_core ${MTSTATES_LUA})
  mtstates_add_test(c/${name} test_${name})
endfunction()
