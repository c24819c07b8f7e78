# fish completion of ctrsnap
function __ctrsnap_complete
    set -l words (commandline -opc)
    $words[1] __complete $words[2..-1] (commandline -ct) 2>/dev/null
end
complete -c ctrsnap -a '(__ctrsnap_complete)'
