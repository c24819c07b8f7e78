# bash completion of ctrsnap
_ctrsnap() {
    local line="${COMP_LINE:0:COMP_POINT}" words cur candidate
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    cur="${words[-1]}"
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        # readline replaces only what follows the last : or = of the word
        [[ $cur == *[:=]* && $COMP_WORDBREAKS == *:* ]] && candidate="${candidate#"${cur%"${cur##*[:=]}"}"}"
        COMPREPLY+=("$candidate")
    done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
}
complete -o default -F _ctrsnap ctrsnap
