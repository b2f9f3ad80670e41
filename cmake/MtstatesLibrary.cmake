# For programs that have the module inside: a static library, with files for pkg-config and for CMake.

# One object of all, a static ck included, in which only the interface's names can be seen: others are
# words like pool_new, which a program may have, too, and so may it have a ck of its own.
set(object ${CMAKE_CURRENT_BINARY_DIR}/mtstates.o)
set(merge ${CMAKE_C_COMPILER} -r -o ${object} $<TARGET_OBJECTS:mtstates_core>)
if(MTSTATES_CK_IS_STATIC)
  list(APPEND merge ${MTSTATES_CK})
endif()
if(CMAKE_INTERPROCEDURAL_OPTIMIZATION) # which ends here, in code that any linker takes
  list(APPEND merge ${CMAKE_C_COMPILE_OPTIONS_IPO})
  if(CMAKE_C_COMPILER_ID STREQUAL GNU)
    list(APPEND merge -flinker-output=nolto-rel)
  endif()
endif()
if(APPLE) # whose linker hides them when it merges
  set(hide true)
else()
  set(hide ${CMAKE_OBJCOPY} --wildcard --keep-global-symbol=luaopen_mtstates --keep-global-symbol=mtstates_*
      ${object})
endif()
add_custom_command(OUTPUT ${object} COMMAND ${merge} COMMAND ${hide}
                   DEPENDS mtstates_core $<TARGET_OBJECTS:mtstates_core>
                   COMMAND_EXPAND_LISTS VERBATIM)
add_library(mtstates_static STATIC ${object})
set_target_properties(mtstates_static PROPERTIES OUTPUT_NAME mtstates EXPORT_NAME mtstates LINKER_LANGUAGE C)
target_include_directories(mtstates_static INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_link_libraries(mtstates_static INTERFACE Threads::Threads)
if(NOT MTSTATES_CK_IS_STATIC)
  target_link_libraries(mtstates_static INTERFACE ${MTSTATES_CK})
endif()
install(TARGETS mtstates_static EXPORT mtstates)
install(FILES src/mtstates.h src/mtstates_inside.h TYPE INCLUDE)

# Both files find the rest from where they are, so that the tree can be moved.
include(CMakePackageConfigHelpers)
set(package ${CMAKE_INSTALL_LIBDIR}/cmake/mtstates)
configure_package_config_file(cmake/mtstatesConfig.cmake.in mtstatesConfig.cmake
                              INSTALL_DESTINATION ${package})
write_basic_package_version_file(mtstatesConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(EXPORT mtstates NAMESPACE mtstates:: FILE mtstatesTargets.cmake DESTINATION ${package})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mtstatesConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/mtstatesConfigVersion.cmake DESTINATION ${package})

set(pc_requires)
set(pc_lua_cflags)
set(pc_libraries -pthread)
if(NOT MTSTATES_CK_IS_STATIC)
  list(PREPEND pc_libraries ${MTSTATES_CK})
endif()
if(PC_LUA_FOUND AND NOT LUA_INCDIR)
  set(pc_requires ${PC_LUA_MODULE_NAME})
else()
  set(pc_lua_cflags -I${MTSTATES_LUA_HEADERS})
  if(MTSTATES_LUA)
    list(PREPEND pc_libraries ${MTSTATES_LUA} -lm)
  endif()
endif()
list(JOIN pc_libraries " " pc_libraries)
foreach(folder LIBDIR INCLUDEDIR) # which may be absolute
  set(pc_${folder} "\${prefix}")
  cmake_path(APPEND pc_${folder} "${CMAKE_INSTALL_${folder}}")
endforeach()
set(pc_prefix "${CMAKE_INSTALL_PREFIX}")
cmake_path(RELATIVE_PATH pc_prefix BASE_DIRECTORY "${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig")
configure_file(cmake/mtstates.pc.in mtstates.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/mtstates.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
