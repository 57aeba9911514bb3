// The generated file embedded_templates.cpp (cmake/EmbedTemplates.cmake).
#pragma once

#include <cstddef>
#include <string_view>

#include "gla/generator/render.h"

namespace gla {

extern const EmbeddedFile kEmbeddedTemplates[];
extern const std::size_t kEmbeddedTemplateCount;
extern const std::string_view kTemplatesHash;

}  // namespace gla
