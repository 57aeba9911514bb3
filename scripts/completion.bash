# bash completion for gla-tune. Commands and options are read off --help, so that they cannot drift from the program; other
# words complete as file names.
# shellcheck shell=bash
_gla_tune() {
  local program=${COMP_WORDS[0]} current=${COMP_WORDS[COMP_CWORD]} command=() choices=''
  COMPREPLY=()
  if [ "$COMP_CWORD" -gt 1 ] && [[ ${COMP_WORDS[1]} != -* ]]; then
    command=("${COMP_WORDS[1]}")
  fi
  if [[ $current == -* ]]; then
    choices=$("$program" "${command[@]}" --help 2> /dev/null | grep -oE -- '(^|[ ,])--[a-z][a-z-]*' | tr -d ' ,')
  elif [ "$COMP_CWORD" -eq 1 ]; then
    choices=$("$program" --help 2> /dev/null | sed -n '/^Subcommands:/,$s/^  \([a-z]\{1,\}\) .*/\1/p')
  fi
  mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
}
complete -o default -F _gla_tune gla-tune
