# cargo build and cargo test of a small program with threads, without crates from elsewhere.
# seconds: 600
export CARGO_HOME=$PWD/home USER=root
cargo init --quiet --vcs none --name small small
cd small
cat >src/main.rs <<'SCRIPT'
use std::sync::mpsc;
use std::thread;

fn squares(n: u64) -> u64 {
    let (sender, receiver) = mpsc::channel();
    let workers: Vec<_> = (1..=n)
        .map(|i| {
            let sender = sender.clone();
            thread::spawn(move || sender.send(i * i).unwrap())
        })
        .collect();
    drop(sender);
    let total = receiver.iter().sum();
    workers.into_iter().for_each(|w| w.join().unwrap());
    total
}

fn main() {
    println!("{}", squares(100));
}

#[test]
fn sums() {
    assert_eq!(squares(10), 385);
}
SCRIPT
cargo build --quiet --offline
test "$(target/debug/small)" = 338350
cargo test --quiet --offline
