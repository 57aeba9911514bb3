// gla-tune completion: a script for the shell, made from the commands and options that there are.
#include <fmt/format.h>

#include "commands/commands.h"
#include "commands/exit_code.h"

namespace gla {
namespace {

std::string options_of(const CLI::App& command) {
  std::string names;
  for (const CLI::Option* option : command.get_options())
    for (const std::string& name : option->get_lnames())
      names += fmt::format("{}--{}", names.empty() ? "" : " ", name);
  return names;
}

bool is_hidden(const CLI::App& command) {
  return command.get_group().empty();
}

std::string bash_script(const CLI::App& app) {
  std::string names, cases;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (is_hidden(*command)) continue;
    names += (names.empty() ? "" : " ") + command->get_name();
    cases += fmt::format("    {}) words=\"{}\" ;;\n", command->get_name(), options_of(*command));
  }
  return fmt::format(
      "_gla_tune() {{\n"
      "  local current=${{COMP_WORDS[COMP_CWORD]}} words\n"
      "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
      "    COMPREPLY=($(compgen -W \"{} {}\" -- \"$current\"))\n"
      "    return\n"
      "  fi\n"
      "  case ${{COMP_WORDS[1]}} in\n"
      "{}"
      "  esac\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\") $(compgen -f -- \"$current\"))\n"
      "}}\n"
      "complete -F _gla_tune gla-tune\n",
      names, options_of(app), cases);
}

/// A description as zsh's _describe and _arguments take it.
std::string quoted(std::string text) {
  for (char& c : text)
    if (std::string_view("':[]").find(c) != std::string_view::npos) c = ' ';
  return text;
}

std::string zsh_script(const CLI::App& app) {
  std::string names, cases;
  for (const CLI::App* command : app.get_subcommands({})) {
    if (is_hidden(*command)) continue;
    names += fmt::format("    '{}:{}'\n", command->get_name(), quoted(command->get_description()));
    cases += fmt::format("    {})\n      _arguments", command->get_name());
    for (const CLI::Option* option : command->get_options())
      for (const std::string& name : option->get_lnames())
        cases += fmt::format(" \\\n        '--{}[{}]{}'", name, quoted(option->get_description()),
                             option->get_expected_max() > 0 ? ":value:_files" : "");
    cases += " \\\n        '*:file:_files'\n      ;;\n";
  }
  return fmt::format(
      "#compdef gla-tune\n"
      "_gla_tune() {{\n"
      "  local -a commands\n"
      "  commands=(\n"
      "{}"
      "  )\n"
      "  if (( CURRENT == 2 )); then\n"
      "    _describe command commands\n"
      "    return\n"
      "  fi\n"
      "  local command=$words[2]\n"
      "  shift words\n"
      "  (( CURRENT-- ))\n"
      "  case $command in\n"
      "{}"
      "  esac\n"
      "}}\n"
      "compdef _gla_tune gla-tune\n",
      names, cases);
}

}  // namespace

void add_completion_command(CLI::App& app, int& exit_code) {
  CLI::App& command = *app.add_subcommand("completion", "Print a completion script for bash or zsh");
  auto shell = std::make_shared<std::string>();
  command.add_option("shell", *shell, "bash or zsh")->required()->check(CLI::IsMember({"bash", "zsh"}));
  command.footer(
      "Examples:\n"
      "  gla-tune completion bash > ~/.local/share/bash-completion/completions/gla-tune\n"
      "  gla-tune completion zsh > ~/.zfunc/_gla-tune");
  command.callback([&app, &exit_code, shell] {
    fmt::print("{}", *shell == "bash" ? bash_script(app) : zsh_script(app));
    exit_code = kExitOk;
  });
}

}  // namespace gla
