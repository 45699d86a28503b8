#!/usr/bin/env bash
# Man pages and shell completions, made from what the binary says itself, so that they stay in step; and the site's guide.
# usage: texts.sh PLANCTON DIR     writes DIR/{plancton.8,plancton.toml.5,plancton-site.7,plancton.bash,_plancton,plancton.fish}
set -euo pipefail

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

roff() { sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^[.']/\\\\\&&/"; }

options_roff() {
  local long short value summary
  while IFS='|' read -r long short value summary; do
    printf '.TP\n\\fB%s\\fR\n%s\n' "$(roff <<<"${short:+-$short, }--$long${value:+ $value}")" "$(roff <<<"$summary")"
  done
}

man_8() {
  local command
  printf '.TH PLANCTON 8 "" "plancton %s" "System administration"\n' "$version"
  printf '.SH NAME\nplancton \\- gives a machine'"'"'s idle time to science\n.SH SYNOPSIS\n.B plancton\n[OPTIONS] COMMAND\n'
  printf '.SH DESCRIPTION\n%s\n' "$(sed -n '1,/^$/p' <<<"$overview" | roff)"
  printf '.SH OPTIONS\nBefore or after the command.\n'
  options_of | options_roff
  printf '.SH COMMANDS\n'
  for command in "${commands[@]}"; do
    printf '.SS %s\n' "$("$plancton" help "$command" | sed -n '1s/^plancton //p' | roff)"
    "$plancton" help "$command" | sed -n '3,${/^Options$/q; p}' | sed -n '/^Example$/q; p' | sed 's/^$/.PP/' |
      sed '$d' | sed -E '/^\.PP$/!{s/\\/\\e/g; s/-/\\-/g}'
    options_of "$command" | options_roff
    "$plancton" help "$command" | sed -n '/^Example$/,$s/^  //p' | roff | sed '1i.PP\n.EX' | sed '$a.EE'
  done
  printf '.SH EXIT STATUS\n'
  sed -nE '/^Exit codes/,/^$/s/^  ([0-9]+) +(.*)/.TP\n.B \1\n\2/p' <<<"$overview"
  cat <<'ROFF'
.SH FILES
.TP
.I /etc/plancton/config.toml
the configuration, see plancton.toml(5)
.TP
.I /run/plancton
lock and status file
.TP
.I /var/lib/plancton
what the owner asked for, and the list of images that were fetched
.PP
For users the XDG directories take their place. Members of the group
.I plancton
may drain, snooze and resume the machine's daemon.
.SH SECURITY
Access to the engine's socket is root on the machine (with a rootless engine: your user). Plancton needs it, as everything
does that starts containers.
.SH SEE ALSO
plancton.toml(5), plancton\-site(7), systemctl(1), docker(1), podman(1)
ROFF
}

# Comments and keys of the commented default configuration: a comment is about the key or table right below it.
man_5() {
  printf '.TH PLANCTON.TOML 5 "" "plancton %s" "File formats"\n' "$version"
  printf '.SH NAME\nplancton.toml \\- configuration of plancton(8)\n.SH DESCRIPTION\n'
  "$plancton" config --default | awk '
    function flush(  i) { for (i = 1; i <= lines; i++) print text[i]; lines = 0 }
    function roff(s) { gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s); sub(/^\./, "\\\\\\&.", s); return s }
    /^#? ?\[\[?[a-z]+\]?\]$/ { sub(/^# /, ""); print ".SH " $0; flush(); next }
    /^# [a-z-]+ = / { sub(/^# /, ""); print ".TP\n\\fB" roff($0) "\\fR"; flush(); next }
    /^# / { sub(/^# /, ""); text[++lines] = roff($0); next }
    /^$/ { flush() }
    END { flush() }'
  printf '.SH SEE ALSO\nplancton(8), plancton\\-site(7)\n'
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

man_8 >"$out/plancton.8"
man_5 >"$out/plancton.toml.5"
sed "s/@VERSION@/$version/" "$(dirname "${BASH_SOURCE[0]}")/plancton-site.7" >"$out/plancton-site.7"
bash_completion >"$out/plancton.bash"
zsh_completion >"$out/_plancton"
fish_completion >"$out/plancton.fish"
