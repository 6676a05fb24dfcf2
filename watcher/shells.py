"""What shells load in order to complete our commands, under both of their names; instead of click's own scripts.

What is printed must do for years: it is copied into files. So it only asks, and shows what it is told.
"""

from __future__ import annotations

import os
from typing import ClassVar

from click.shell_completion import BashComplete, FishComplete, ZshComplete, add_completion_class, split_arg_string

# click's takes bash's own words, which end at each colon: of "ct:101:/x" bash replaces what is behind the last one.
_BASH = """\
%(complete_func)s() {
    local line=${COMP_LINE:0:COMP_POINT} cut= word kind value
    word=${line##*[[:space:]]}
    if [[ $word == *:* && $COMP_WORDBREAKS == *:* ]]; then cut=${word%%"${word##*:}"}; fi
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$cut"}") ;;
        esac
    done < <(env COMP_WORDS="$line" %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s watcher mountwatch
"""

_ZSH = """\
#compdef watcher mountwatch
%(complete_func)s() {
    local -a plain described response
    local kind value words_of_it
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \
        %(complete_var)s=zsh_complete ${~words[1]} 2>/dev/null)}")
    for kind value words_of_it in ${response}; do
        case $kind in
            file) _files ;;
            plain) if [[ $words_of_it == _ ]]; then plain+=("$value"); else described+=("$value:$words_of_it"); fi ;;
        esac
    done
    if (( $#described )); then _describe -V unsorted described -U; fi
    if (( $#plain )); then compadd -U -V unsorted -a plain; fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s watcher mountwatch
fi
"""

_FISH = """\
function %(complete_func)s
    set -l program (commandline -opc)[1]
    set -l word (commandline -ct)
    for line in (env COMP_WORDS=(commandline -cp | string collect) COMP_CWORD="$word" \
            %(complete_var)s=fish_complete $program 2>/dev/null)
        set -l parts (string split -m 1 , -- $line)
        switch $parts[1]
            case file
                __fish_complete_path $word
            case plain
                echo $parts[2]
        end
    end
end
complete --no-files --command watcher --command mountwatch --arguments '(%(complete_func)s)'
"""


class _Bash(BashComplete):
    source_template: ClassVar[str] = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is begun, and that one."""
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        if len(words) < 2 or line[-1].isspace():
            return words[1:], ""
        return words[1:-1], words[-1]


class _Zsh(ZshComplete):
    source_template: ClassVar[str] = _ZSH


class _Fish(FishComplete):
    source_template: ClassVar[str] = _FISH


def use_ours() -> None:
    """Before click looks what a shell wants of us."""
    for shell in (_Bash, _Zsh, _Fish):
        add_completion_class(shell)
