//! What holds in every place, also where the kernel refuses namespaces.

use std::fs;

use autofit::process::{Containment, ProcessEnd, abilities};
use autofit::sandbox::{Isolation, Kind};

use crate::ends::expected_containment;
use crate::support::python;
use crate::traces::fingerprint;

const SCRIPT: &str = "
import os, sys, shutil, tempfile
open('model.pt', 'w').write('new')
open(sys.argv[1] + '/by-absolute-path', 'w').write('new')
os.chmod('model.pt', 0o600)
shutil.rmtree('old')
tempfile.NamedTemporaryFile(delete=False).write(b'x')
print(open('../data/input').read(), os.path.basename(os.getcwd()), os.environ.get('PWD', '?') in ('?', os.getcwd()))
";

#[test]
fn auto_isolation_protects_the_working_directory() {
    let case = python(SCRIPT).with(|l| {
        l.isolation = Isolation::Auto;
        l.cwd = l.cwd.join("project");
        l.argv.push(l.cwd.clone().into());
    });
    fs::create_dir_all(case.path("project/old")).unwrap();
    fs::create_dir(case.path("data")).unwrap();
    fs::write(case.path("data/input"), "in").unwrap();
    fs::write(case.path("project/model.pt"), "weights").unwrap();
    let before = fingerprint(&case.path("project"));
    let running = case.start().unwrap();
    let kind = if abilities().overlay.is_ok() { Kind::Overlay } else { Kind::Copy };
    assert!(running.isolation() == kind || running.isolation() == Kind::Landlock);
    let ended = crate::support::wait(&running);
    assert_eq!(ended.end, ProcessEnd::Exited { code: 0 }, "{:#?}", running.tail(20));
    assert_eq!(running.tail(1), ["in project True"]);
    assert_eq!(fingerprint(&case.path("project")), before);
}

#[test]
fn a_cap_holds_for_each_process_at_least() {
    let case = python("x = bytearray(600 << 20)\nimport time; time.sleep(2)")
        .with(|l| l.memory_limit = Some(300 << 20));
    let running = case.start().unwrap();
    let ended = crate::support::wait(&running);
    let cap = &ended.cap;
    match expected_containment() {
        Containment::ProcessGroup => {
            assert_eq!(cap.mechanism, "RLIMIT_DATA (weak)");
            assert!(running.notes().iter().any(|n| n.contains("no memory cgroup")), "{:?}", running.notes());
            assert_eq!(ended.end, ProcessEnd::Exited { code: 1 });
            assert!(running.tail(1)[0].starts_with("MemoryError"), "{:?}", running.tail(3));
        }
        _ if cap.mechanism.starts_with("cgroup") => {
            assert_eq!(ended.end, ProcessEnd::Signaled { signal: 9 });
            assert!(ended.oom_kills > 0);
        }
        _ => assert_eq!(ended.end, ProcessEnd::Exited { code: 1 }),
    }
}

#[test]
fn weaker_containment_is_announced() {
    let case = python("pass");
    let running = case.start().unwrap();
    let said = running.notes().iter().any(|n| n.contains("no PID namespace"));
    assert_eq!(said, expected_containment() != Containment::PidNamespace, "{:?}", running.notes());
}
