# Executes the cells of a session in one Bash process.
#
# The host writes a frame for each cell to descriptor 9, and reads the frames of the results from it. A frame is a decimal length, a
# line feed, and as many bytes of JSON. Standard output and standard error go to the host directly, and descriptor 9 is closed
# while a cell runs, so that nothing that a cell or its children print can look like a frame.

__agentd_cell() {
    # `return` in the trap leaves the function that runs.
    trap 'return 130' INT
    eval "$__agentd_source"
}

__agentd_send() {
    local LC_ALL=C
    printf '%d\n%s' "${#1}" "$1" >&9
}

trap : INT
while :; do
    IFS= read -r __agentd_length <&9 || {
        # A signal ends `read` too.
        [ $? -gt 128 ] && continue
        exit 0
    }
    LC_ALL=C IFS= read -r -N "$__agentd_length" __agentd_frame <&9 || exit 0
    [[ $__agentd_frame =~ \"cell\":([0-9]+) ]]
    __agentd_number=${BASH_REMATCH[1]}
    [[ $__agentd_frame =~ \"source\":\"([A-Za-z0-9+/=]*)\" ]]
    # The dot keeps line feeds at the end.
    __agentd_source=$(printf %s "${BASH_REMATCH[1]}" | base64 -d; printf .)
    __agentd_source=${__agentd_source%.}
    __agentd_status=0
    __agentd_cell 9>&- || __agentd_status=$?
    trap : INT
    case $__agentd_status in
        0) __agentd_word=ok ;;
        130) __agentd_word=interrupted ;;
        *) __agentd_word=error ;;
    esac
    __agentd_send "{\"type\":\"done\",\"cell\":$__agentd_number,\"status\":\"$__agentd_word\",\"exit_code\":$__agentd_status}"
done
