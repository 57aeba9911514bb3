// gla-tune list: the space of each problem.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "commands/commands.h"
#include "commands/exit_code.h"
#include "commands/options.h"
#include "gla/generator/space.h"
#include "json.h"
#include "problem_json.h"
#include "text_table.h"

namespace gla {
namespace {

struct ListOptions {
  ProblemOptions problems;
  TargetOptions target;
  bool variants = false, json = false;

  void add_to(CLI::App& command) {
    problems.add_to(command);
    target.add_to(command);
    command.add_flag("--variants", variants, "print every variant, one a line");
    command.add_flag("--json", json, "print JSON");
  }
};

struct Listing {
  Problem problem;
  std::vector<Variant> variants;

  std::map<std::string, int> families() const {
    std::map<std::string, int> counts;
    for (const Variant& variant : variants) ++counts[std::string(to_string(variant.family))];
    return counts;
  }
  int count(Accuracy accuracy) const {
    return static_cast<int>(std::count_if(variants.begin(), variants.end(), [&](const Variant& variant) {
      return meant_for(problem, variant, accuracy);
    }));
  }
};

Json to_json(const Listing& listing, bool with_variants) {
  Json json = Json::object({{"problem", to_json(listing.problem)},
                            {"variants", listing.variants.size()},
                            {"default", listing.count(Accuracy::standard)},
                            {"fast", listing.count(Accuracy::fast)}});
  Json families = Json::object();
  for (const auto& [family, count] : listing.families()) families.set(family, count);
  json.set("families", std::move(families));
  if (with_variants) {
    Json list = Json::array();
    for (const Variant& variant : listing.variants) list.push(to_string(variant));
    json.set("list", std::move(list));
  }
  return json;
}

int run_list(const ListOptions& options) {
  const auto tasks = options.problems.tasks();
  if (!tasks.ok()) return fail(tasks.status());
  const auto target = resolve(options.target);
  if (!target.ok()) return fail(target.status());
  std::vector<Listing> listings;
  for (const TuningTask& task : *tasks)
    listings.push_back({task.problem, space(task.problem, target->architecture)});

  if (options.json) {
    Json list = Json::array();
    for (const Listing& listing : listings) list.push(to_json(listing, options.variants));
    fmt::print(
        "{}\n",
        Json::object({{"architecture", "sm_" + target->architecture.name}, {"problems", list}}).dump(2));
    return kExitOk;
  }
  if (options.variants) {
    for (const Listing& listing : listings)
      for (const Variant& variant : listing.variants)
        fmt::print("{}: {}\n", to_string(listing.problem), to_string(variant));
    return kExitOk;
  }
  using Align = TextTable::Align;
  TextTable table({{"problem"},
                   {"variants", Align::right},
                   {"default", Align::right},
                   {"fast", Align::right},
                   {"families"}});
  for (const Listing& listing : listings) {
    std::string families;
    for (const auto& [family, count] : listing.families())
      families += fmt::format("{}{} {}", families.empty() ? "" : ", ", family, count);
    table.add({to_string(listing.problem), std::to_string(listing.variants.size()),
               std::to_string(listing.count(Accuracy::standard)),
               std::to_string(listing.count(Accuracy::fast)), families});
  }
  fmt::print("sm_{} ({})\n\n{}", target->architecture.name, target->reason, table.format());
  return kExitOk;
}

}  // namespace

void add_list_command(CLI::App& app, int& exit_code) {
  add_command<ListOptions>(app, exit_code, "list", "Problems and the sizes of their spaces", run_list)
      .footer(
          "Examples:\n"
          "  gla-tune list\n"
          "  gla-tune list --op chunk_forward --head-dims 128 --variants");
}

}  // namespace gla
