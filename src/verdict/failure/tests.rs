use super::*;

#[test]
fn nothing_is_not_memory() {
    let f = read_failure("", None);
    assert_eq!((f.kind, f.fragmentation, f.fields), (FailureKind::NotMemory, None, FailureFields::default()));
}
