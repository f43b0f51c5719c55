//! Replays what the fuzzers found worth keeping.

use std::path::Path;

#[test]
fn the_hello_corpus_makes_no_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/fuzz/corpus/hello");
    let mut replayed = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("a readable folder").path();
        transport_proto::handshake::exercise(&std::fs::read(path).expect("a readable case"));
        replayed += 1;
    }
    assert!(replayed > 0, "no case in {}", folder.display());
}
