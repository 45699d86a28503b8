#!/usr/bin/env bash
# Man pages and shell completions. What the program says itself (commands, options, exit codes, keys) is taken from it, so that they stay in
# step; the rest is in packaging/plancton*.[1-9].
# usage: texts.sh PLANCTON DIR     writes DIR/{plancton.1,plancton.toml.5,plancton-metrics.7,plancton-site.7,plancton.bash,_plancton,plancton.fish}
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
plancton=$1 out=$2
mkdir -p "$out"
version=$("$plancton" --version | cut -d' ' -f2)
overview=$("$plancton" help)
mapfile -t commands < <(sed -nE '/^(Options|Exit codes)/q; s/^  ([a-z-]+) .*/\1/p' <<<"$overview")

# "LONG|SHORT|VALUE|SUMMARY" for each option of a command; without one, of every command.
options_of() {
  "$plancton" help "$@" | sed -nE '/^Options/,/^$/s/^  (-([a-zA-Z]), )?--([a-z-]+)( ([^ ]+))?   *(.*)/\3|\2|\5|\6/p'
}

summary_of() { sed -nE "s/^  $1 +(\[?[A-Z]+\]? +)?([A-Z].*)/\2/p" <<<"$overview"; }

# Words in backticks, which the end of a line may part.
# shellcheck disable=SC2016
bold() { sed -zE 's/`([^`]*)`/\\fB\1\\fR/g'; }

# Plain text as roff: an empty line begins a paragraph.
roff() { sed -e 's/\\/\\e/g' -e 's/-/\\-/g' | bold | sed -e "s/^[.']/\\\\\&&/" -e 's/^$/.PP/'; }

# Long lines of text are broken, as mandoc -Tlint likes them; examples stay as they are.
wrap() {
  awk '/^\.EX/ { keep = 1 } /^\.EE/ { keep = 0 }
    keep || /^\./ || length($0) < 80 { print; next }
    { line = ""
      for (i = 1; i <= NF; i++) {
        if (length(line) + length($i) > 76) { print line; line = "" }
        line = line == "" ? (i > 1 && $i ~ /^[.\x27]/ ? "\\&" : "") $i : line " " $i
      }
      print line }'
}

options_roff() {
  local long short value summary
  while IFS='|' read -r long short value summary; do
    printf '.TP\n%s\n%s\n' "$(roff <<<"\`${short:+-$short, }--$long${value:+ $value}\`")" "$(roff <<<"$summary")"
  done
}

commands_roff() {
  local command page
  for command in "${commands[@]}"; do
    page=$("$plancton" help "$command")
    printf '.SS %s\n' "$(sed -n '1s/^plancton //p' <<<"$page" | roff)"
    # the text between the first line and options or example, without empty lines around it
    sed -nE '1d; /^(Options|Example)$/q; p' <<<"$page" | sed -e '/./,$!d' -e ':a' -e '/^\n*$/{$d;N;ba' -e '}' | roff
    options_of "$command" | options_roff
    [[ $page != *$'\nExample\n'* ]] || { printf '.PP\n.EX\n'; sed -n '/^Example$/,$s/^  //p' <<<"$page" | roff; printf '.EE\n'; }
  done
}

exits_roff() { sed -nE '/^Exit codes/,/^$/s/^  ([0-9]+) +(.*)/.TP\n.B \1\n\2/p' <<<"$overview" | bold; }

# Comments and keys of the commented default configuration: a comment is about the key or table right below it.
keys_roff() {
  "$plancton" config --default | awk '
    function flush() { if (text != "") print text; text = "" }
    function roff(s) {
      gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s)
      while (match(s, /`[^`]*`/)) s = substr(s, 1, RSTART - 1) "\\fB" substr(s, RSTART + 1, RLENGTH - 2) "\\fR" substr(s, RSTART + RLENGTH)
      return s ~ /^[.\x27]/ ? "\\&" s : s
    }
    /^#? ?\[\[?[a-z]+\]?\]$/ { sub(/^# /, ""); print ".SS " $0; flush(); next }
    /^# [a-z-]+ = / { sub(/^# /, ""); print ".TP\n\\fB" roff($0) "\\fR"; flush(); next }
    /^# / { sub(/^# /, ""); text = text (text == "" ? "" : " ") roff($0); next }
    /^$/ && !begun { text = ""; begun = 1 }
    /^$/ { flush() }
    END { flush() }'
}

page() { # page FILE
  local line
  while IFS= read -r line; do
    case $line in
    @OPTIONS@) options_of | options_roff ;;
    @COMMANDS@) commands_roff ;;
    @EXITS@) exits_roff ;;
    @KEYS@) keys_roff ;;
    *) printf '%s\n' "${line//@VERSION@/$version}" ;;
    esac
  done <"$here/$1" | wrap >"$out/$1"
}

bash_completion() {
  local command
  cat <<BASH
# bash completion for plancton; made from its help
_plancton() {
  local word command='' cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]}
  local options='$(options_of | sed 's/^/--/' | cut -d'|' -f1 | xargs)'
  case \$prev in $( (options_of; for command in "${commands[@]}"; do options_of "$command"; done) | awk -F'|' '$3 { print "--" $1 }' | sort -u | paste -sd'|')) return ;; esac
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case \$word in $(IFS='|'; echo "${commands[*]}")) command=\$word; break ;; esac
  done
  case \$command in
  '') options+=' ${commands[*]}' ;;
BASH
  for command in "${commands[@]}"; do
    echo "  $command) options+=' $(options_of "$command" | sed 's/^/--/' | cut -d'|' -f1 | xargs)' ;;"
  done
  cat <<'BASH'
  esac
  [[ $command = '' || $cur = -* ]] || return
  mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
}
complete -o default -F _plancton plancton
BASH
}

quoted() { # for zsh: in single quotes, with a backslash before what separates parts there
  local text=$1
  printf "%s" "${text//\'/\'\\\'\'}" | sed 's/[]:[]/\\&/g'
}

zsh_options() { # each as an argument of _arguments
  local long short value summary name
  while IFS='|' read -r long short value summary; do
    for name in "--$long" ${short:+"-$short"}; do
      printf " '%s[%s]%s'" "$name" "$(quoted "$summary")" "${value:+:value:_files}"
    done
  done
}

zsh_completion() {
  local command
  printf '#compdef plancton\n# made from its help\nlocal -a commands=(\n'
  for command in "${commands[@]}"; do
    printf "  '%s:%s'\n" "$command" "$(quoted "$(summary_of "$command")")"
  done
  # shellcheck disable=SC2016 # for zsh to expand
  printf ')\nlocal state line\n_arguments -C%s "1: :->command" "*::argument:->argument"\n' "$(options_of | zsh_options)"
  # shellcheck disable=SC2016
  printf 'case $state in\ncommand) _describe command commands ;;\nargument)\n  case $line[1] in\n'
  for command in "${commands[@]}"; do
    printf '  %s) _arguments%s "*:file:_files" ;;\n' "$command" "$(options_of "$command" | zsh_options)"
  done
  printf '  esac ;;\nesac\n'
}

fish_options() { # fish_options [CONDITION]
  local long short value summary
  while IFS='|' read -r long short value summary; do
    printf 'complete -c plancton%s -l %s%s%s -d "%s"\n' "$1" "$long" "${short:+ -s $short}" "${value:+ -r}" "$summary"
  done
}

fish_completion() {
  local command
  echo '# made from the help of plancton'
  options_of | fish_options ''
  for command in "${commands[@]}"; do
    printf 'complete -c plancton -n __fish_use_subcommand -f -a %s -d "%s"\n' "$command" "$(summary_of "$command")"
    options_of "$command" | fish_options " -n \"__fish_seen_subcommand_from $command\""
  done
}

for file in plancton.1 plancton.toml.5 plancton-metrics.7 plancton-site.7; do page "$file"; done
bash_completion >"$out/plancton.bash"
zsh_completion >"$out/_plancton"
fish_completion >"$out/plancton.fish"
