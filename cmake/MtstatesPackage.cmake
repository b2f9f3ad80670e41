# The Debian package: cmake --workflow --preset deb
set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME lua-mtstates)
set(CPACK_PACKAGE_CONTACT "The mtstates authors")
set(CPACK_PACKAGE_DESCRIPTION "Each state is a Lua interpreter of its own, which threads find by handle,
id or name and call. One thread at a time is inside; a second one is
turned away at once, or waits.")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS # whatever umask
    OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION interpreters)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS lua${MTSTATES_LUA_VERSION}) # for mtstates-profile; the module goes with any Lua
set(CPACK_DEBIAN_PACKAGE_SUGGESTS "liblua${MTSTATES_LUA_VERSION}-dev, gdb")
set(CPACK_PROJECT_CONFIG_FILE ${CMAKE_CURRENT_SOURCE_DIR}/cmake/package_needs.cmake)
include(CPack)
