#compdef ctrsnap
# zsh completion of ctrsnap
_ctrsnap() {
    local -a candidates
    local line
    while IFS=$'\t' read -r line about; do
        candidates+=("${line//:/\\:}:${about}")
    done < <("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)
    if (( ${#candidates} )); then
        _describe 'ctrsnap' candidates
    else
        _files
    fi
}
if [[ "${funcstack[1]}" == "_ctrsnap" ]]; then
    _ctrsnap
else
    compdef _ctrsnap ctrsnap
fi
