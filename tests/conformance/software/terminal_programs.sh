# tmux, vim, htop and less, driven by a script.
# seconds: 300
export TERM=screen TMUX_TMPDIR=$PWD LANG=C.UTF-8
seq 1000 >numbers
screen() { tmux capture-pane -p -t s; }
shows() { until screen | grep -q -- "$1"; do sleep 0.1; done; }
tmux -f /dev/null new-session -d -s s -x 100 -y 30 'bash --norc'
tmux send-keys -t s 'PS1="ready> "' Enter; shows '^ready>'
tmux send-keys -t s 'vim -u NONE -N text' Enter; shows 'text'
tmux send-keys -t s 'iwritten by vim' Escape ':wq' Enter; shows '^ready>'
until test -s text; do sleep 0.1; done
test "$(cat text)" = 'written by vim'
tmux send-keys -t s 'clear; less numbers' Enter; shows '^29$'
tmux send-keys -t s '/^777$' Enter; shows '^777$'
tmux send-keys -t s 'q'; shows '^ready>'
tmux send-keys -t s 'clear; htop' Enter; shows 'Load average'
shows 'F10Quit'
tmux send-keys -t s 'q'; shows '^ready>'
tmux resize-window -t s -x 60 -y 20; tmux send-keys -t s 'clear; stty size' Enter; shows '^20 60'
tmux kill-server
