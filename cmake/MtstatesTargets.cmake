# Small helpers, so that each target is one line.

set(MTSTATES_WARNINGS
    -Wall -Wextra -Wpedantic -Wshadow -Wcast-align -Wundef -Wvla
    $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes -Wmissing-prototypes -Wold-style-definition>)

# Flags of everything that we compile ourselves.
function(mtstates_compile_options target)
  target_compile_options(${target} PRIVATE ${MTSTATES_WARNINGS}
                         $<$<BOOL:${MTSTATES_WERROR}>:-Werror> -fno-omit-frame-pointer)
endfunction()

# mtstates_c_test(name source...): a C program that has the module inside, with a Lua of its own.
function(mtstates_c_test name)
  add_executable(test_${name} ${ARGN})
  mtstates_compile_options(test_${name})
  target_link_libraries(test_${name} PRIVATE mtstates_core PkgConfig::LUA)
  add_test(NAME c/${name} COMMAND test_${name})
  set_tests_properties(c/${name} PROPERTIES ENVIRONMENT "${MTSTATES_TEST_ENVIRONMENT}" TIMEOUT 300)
endfunction()
