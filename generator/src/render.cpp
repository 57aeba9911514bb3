#include "gla/generator/render.h"

#include <fmt/format.h>

#include <map>

#include "family_space.h"
#include "names.h"
#include "render_common.h"

namespace gla {
namespace {

constexpr int kToolThreads = 128;  // templates/verification.cuh

/// What the sources of an operation's variants include, of all families that serve it.
std::vector<std::string_view> headers_of(Operation operation) {
  switch (operation) {
    case Operation::chunk_forward:
      return {"device/launch.cuh",  "recurrent_forward.cuh", "chunk_forward.cuh",
              "chunk_pipeline.cuh", "schedule.cuh",          "segment_scan.cuh"};
    case Operation::recurrent_forward:
      return {"device/launch.cuh", "recurrent_forward.cuh"};
    case Operation::chunk_backward:
      return {"device/launch.cuh", "chunk_backward.cuh", "key_pipeline.cuh", "schedule.cuh",
              "value_pipeline.cuh"};
    case Operation::recurrent_backward:
      return {"device/launch.cuh", "line_walk.cuh"};
  }
  return {};
}

}  // namespace

std::string_view type_name(DType dtype) {
  switch (dtype) {
    case DType::fp16:
      return "gla::fp16";
    case DType::bf16:
      return "gla::bf16";
    case DType::fp32:
      return "float";
  }
  return "";
}

void add_entry(Source& source, const KernelEntry& entry) {
  source.begins.push_back(source.text.size());
  const std::string_view qualifiers =
      entry.args_type.ends_with("TensorArgs") ? "const GLA_GRID_CONSTANT " : "";
  const std::string_view let = "  gla::let_next_kernel_start();\n",
                         wait = "  gla::wait_for_earlier_kernels();\n";
  const std::string start = entry.start == Start::by_itself ? ""
                            : entry.start == Start::waited  ? fmt::format("{}{}", wait, let)
                                                            : fmt::format("{}{}", let, wait);
  const std::string clusters = entry.cluster == 1 ? "" : fmt::format("GLA_CLUSTER({}) ", entry.cluster);
  source.text += fmt::format(
      "GLA_KERNEL void {}GLA_LAUNCH_BOUNDS({}, {}) {}({}gla::{} args) {{\n{}  gla::{};\n}}\n", clusters,
      entry.threads, entry.min_blocks, entry.name, qualifiers, entry.args_type, start, entry.call);
  source.entries.emplace_back(entry.name);
}

std::string config_text(const Problem& problem, const std::vector<std::string_view>& headers,
                        std::string_view more) {
  std::string includes;
  for (const std::string_view header : headers) includes += fmt::format("#include \"{}\"\n", header);
  includes += "#include \"device/launch.cuh\"\n";
  return fmt::format(R"({}
namespace gla {{

struct Config {{
  using Element = {};
  using Gate = {};
  using State = {};
  static constexpr int head_dim_k = {}, head_dim_v = {}, group = {};
  static constexpr bool gate_k = {}, gate_v = {}, reverse = {}, state_v_first = {};
{}}};

}}  // namespace gla

)",
                     includes, type_name(problem.dtype), type_name(problem.gate_dtype),
                     type_name(problem.state_dtype), problem.head_dim_k, problem.head_dim_v, problem.group,
                     problem.gate_k, problem.gate_v, problem.reverse, problem.state_v_first, more);
}

std::vector<EmbeddedFile> templates_of(Operation operation) {
  std::map<std::string_view, std::string_view> texts, found;
  for (const EmbeddedFile& file : embedded_templates()) texts.emplace(file.name, file.text);
  std::vector<std::string_view> names = headers_of(operation);
  while (!names.empty()) {
    const auto file = texts.find(names.back());
    names.pop_back();
    if (!found.insert(*file).second) continue;
    const auto& [name, text] = *file;
    constexpr std::string_view kInclude = "#include \"";
    for (std::size_t at = text.find(kInclude); at != std::string_view::npos; at = text.find(kInclude, at)) {
      at += kInclude.size();
      const std::string in_folder =
          fmt::format("{}{}", name.substr(0, name.rfind('/') + 1), text.substr(at, text.find('"', at) - at));
      if (const auto included = texts.find(in_folder); included != texts.end())
        names.push_back(included->first);
    }
  }
  std::vector<EmbeddedFile> files;
  for (const auto& [name, text] : found) files.push_back({name, text});
  return files;
}

const std::string& templates_hash(Operation operation) {
  static const std::map<Operation, std::string> hashes = [] {
    std::map<Operation, std::string> made;
    for (const Operation each : kOperations) {
      std::uint64_t hash = 14695981039346656037u;  // FNV-1a
      const auto add = [&](std::string_view text) {
        for (const char byte : text) hash = (hash ^ static_cast<unsigned char>(byte)) * 1099511628211u;
        hash *= 1099511628211u;  // a zero byte, which ends it
      };
      for (const EmbeddedFile& file : templates_of(each)) {
        add(file.name);
        add(file.text);
      }
      made[each] = fmt::format("{:016x}", hash);
    }
    return made;
  }();
  return hashes.at(operation);
}

Source render(const Problem& problem, const Variant& variant) {
  return kernels_of(variant.family).render(problem, variant);
}

LaunchPlan plan(const Problem& problem, const Variant& variant, const Workload& workload,
                const Relaying& relaying) {
  LaunchPlan plan = kernels_of(variant.family).plan(problem, variant, workload, relaying.multiprocessors);
  cut_into_legs(plan, problem, workload, relaying);
  return plan;
}

std::vector<EntryShape> entry_shapes(const Problem& problem, const Variant& variant) {
  return kernels_of(variant.family).entry_shapes(problem, variant);
}

Source render_tools(const Problem& problem) {
  Source source{"verification.cu", config_text(problem, {"verification.cuh"}, ""), {}};
  add_entry(source, {"fill", kToolThreads, 1, "fill_tensor(args)", "FillArgs"});
  add_entry(source, {"compare", kToolThreads, 1, "compare_tensors(args)", "CompareArgs"});
  if (is_backward(problem.operation))
    add_entry(source, {"naive", kToolThreads, 1, "naive_backward<gla::Config>(args)", "BackwardArgs"});
  else
    add_entry(source, {"naive", kToolThreads, 1, "naive_forward<gla::Config>(args)"});
  return source;
}

std::vector<EntryShape> tool_shapes() {
  constexpr std::size_t kCompareScratch = kToolThreads / 32 * sizeof(double);
  return {{kToolThreads, 0, 1}, {kToolThreads, kCompareScratch, 1}, {kToolThreads, 0, 1}};
}

}  // namespace gla
