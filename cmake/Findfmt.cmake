# fmt as its own package describes it or, with GLA_STATIC_DEPENDENCIES, compiled into whatever uses it.
if(TARGET fmt::fmt)
  set(fmt_FOUND TRUE)
  return()
endif()
if(NOT GLA_STATIC_DEPENDENCIES)
  find_package(fmt CONFIG)
  return()
endif()
find_path(fmt_INCLUDE_DIR fmt/format.h)
include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(fmt REQUIRED_VARS fmt_INCLUDE_DIR)
if(fmt_FOUND)
  add_library(fmt::fmt INTERFACE IMPORTED)
  set_target_properties(fmt::fmt PROPERTIES
    INTERFACE_INCLUDE_DIRECTORIES ${fmt_INCLUDE_DIR}
    INTERFACE_COMPILE_DEFINITIONS FMT_HEADER_ONLY)
endif()
