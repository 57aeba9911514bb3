// gla-tune generate: the sources of variants, with the templates beside them, as a folder that stands alone.
#include <fmt/format.h>

#include <filesystem>

#include "check.h"
#include "commands/commands.h"
#include "commands/exit_code.h"
#include "commands/options.h"
#include "files.h"
#include "gla/generator/render.h"

namespace gla {
namespace {

struct GenerateOptions {
  ProblemOptions problems;
  TargetOptions target;
  VariantOptions variants;
  std::string output;
  bool tools = false;

  void add_to(CLI::App& command) {
    problems.add_to(command);
    target.add_to(command);
    variants.add_to(command, 1);
    command.add_flag("--tools", tools, "also the verification tools of each problem");
    command.add_option("-o,--output", output, "folder to write to")->required();
  }
};

/// A file name that says what is in it.
std::string source_stem(const std::string& text) {
  std::string name;
  for (const char c : text) name += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  return name;
}

Status write_templates(const std::filesystem::path& folder) {
  for (const EmbeddedFile& file : embedded_templates())
    GLA_RETURN_IF_ERROR(write_file(folder / file.name, file.text));
  return {};
}

int run_generate(const GenerateOptions& options) {
  const auto tasks = options.problems.tasks();
  if (!tasks.ok()) return fail(tasks.status());
  const auto target = resolve(options.target);
  if (!target.ok()) return fail(target.status());
  std::vector<std::vector<Variant>> wanted;  // all known before the first file is written
  for (const TuningTask& task : *tasks) {
    auto variants = options.variants.variants(task, target->architecture);
    if (!variants.ok()) return fail(variants.status());
    wanted.push_back(*std::move(variants));
  }
  const std::filesystem::path folder(options.output);
  if (const Status status = write_templates(folder); !status.ok()) return fail(status);
  int written = 0;
  const auto write = [&](const std::string& name, const Source& source) {
    ++written;
    return write_file(folder / (source_stem(name) + ".cu"), source.text);
  };
  for (std::size_t t = 0; t < tasks->size(); ++t) {
    const TuningTask& task = (*tasks)[t];
    for (const Variant& variant : wanted[t]) {
      const Status status =
          write(to_string(task.problem) + " " + to_string(variant), render(task.problem, variant));
      if (!status.ok()) return fail(status);
    }
    if (!options.tools) continue;
    if (const Status status = write(to_string(task.problem) + " tools", render_tools(task.problem));
        !status.ok())
      return fail(status);
  }
  fmt::print("{} sources and {} templates in {}\n", written, embedded_templates().size(), options.output);
  return kExitOk;
}

}  // namespace

void add_generate_command(CLI::App& app, int& exit_code) {
  add_command<GenerateOptions>(app, exit_code, "generate", "Write the CUDA sources of variants into a folder",
                               run_generate)
      .footer(
          "Examples:\n"
          "  gla-tune generate -o sources\n"
          "  gla-tune generate --op recurrent_forward --head-dims 128 --all -o sources");
}

}  // namespace gla
