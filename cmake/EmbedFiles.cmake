# Files as string literals of a library.
#
#   gla_embed_files(OUTPUT ROOT HEADER FUNCTION HASH FILES...)
#
# writes OUTPUT, a C++ file, whenever one of FILES (relative to ROOT) changes. It defines two functions of namespace gla that
# HEADER declares: `std::span<const EmbeddedFile> FUNCTION()`, and `std::string_view HASH()`, a digest over all of them.
set(gla_embed_script ${CMAKE_CURRENT_LIST_FILE})
function(gla_embed_files output root header function hash)
  list(TRANSFORM ARGN PREPEND ${root}/ OUTPUT_VARIABLE paths)
  add_custom_command(OUTPUT ${output}
    COMMAND ${CMAKE_COMMAND} -DOUTPUT=${output} -DROOT=${root} -DHEADER=${header} -DFUNCTION=${function} -DHASH=${hash}
            "-DFILES=${ARGN}" -P ${gla_embed_script}
    DEPENDS ${paths} ${gla_embed_script} VERBATIM)
endfunction()

if(NOT CMAKE_SCRIPT_MODE_FILE)
  return()
endif()
set(entries "")
set(digest "")
foreach(file IN LISTS FILES)
  file(READ ${ROOT}/${file} content)
  file(SHA256 ${ROOT}/${file} file_hash)
  string(APPEND digest "${file}:${file_hash}\n")
  # `)__gla__"` occurs in no file.
  string(APPEND entries "    {\"${file}\", R\"__gla__(${content})__gla__\"},\n")
endforeach()
string(SHA256 digest "${digest}")
string(SUBSTRING ${digest} 0 16 digest)
set(text "#include \"${HEADER}\"\n\nnamespace gla {\n\n")
string(APPEND text "static constexpr EmbeddedFile kFiles[] = {\n${entries}};\n\n")
string(APPEND text "std::span<const EmbeddedFile> ${FUNCTION}() {\n  return kFiles;\n}\n\n")
string(APPEND text "std::string_view ${HASH}() {\n  return \"${digest}\";\n}\n\n}  // namespace gla\n")
file(WRITE ${OUTPUT} "${text}")
