# Read by cpack: without these a package would not say what it depends on.
find_program(SHLIBDEPS dpkg-shlibdeps)
find_program(FILE_PROGRAM file)
if(NOT SHLIBDEPS OR NOT FILE_PROGRAM)
  message(FATAL_ERROR " A package for Debian needs programs to be made: apt install dpkg-dev file")
endif()
