//! Files are as before, whatever a script does to them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use autofit::process::ProcessEnd;
use autofit::sandbox::Isolation;

use crate::support::{Case, python, sh};

/// Everything about a tree that a script could change.
pub fn fingerprint(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_file() {
                String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned()
            } else if meta.is_symlink() {
                fs::read_link(&path).unwrap().display().to_string()
            } else {
                String::new()
            };
            let times = format!("{}.{}", meta.mtime(), meta.mtime_nsec());
            let line = format!("{:o} {} {} {times} {content}", meta.mode(), meta.uid(), meta.ino());
            found.insert(path.clone(), line);
            if meta.is_dir() {
                walk(&path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, &mut found);
    found
}

/// A project with something of everything, and a home beside it.
fn project(script: &str) -> Case {
    let case = python(script).with(|l| {
        l.isolation = Isolation::Overlay;
        l.env.iter_mut().find(|(n, _)| n == "HOME").unwrap().1 = l.cwd.join("home").into();
        l.trial_dir = l.cwd.join("trial");
        l.log = l.cwd.join("trial/log");
        l.cwd = l.cwd.join("project");
    });
    let project = &case.launch.cwd;
    for dir in ["project/old/deep", "home/.cache", "trial"] {
        fs::create_dir_all(case.path(dir)).unwrap();
    }
    fs::write(project.join("model.pt"), "weights").unwrap();
    fs::write(project.join("old/deep/file"), "deep").unwrap();
    fs::write(project.join("log.txt"), "line 1\n").unwrap();
    fs::write(case.path("home/.bashrc"), "rc").unwrap();
    std::os::unix::fs::symlink("model.pt", project.join("link")).unwrap();
    case
}

/// Runs it and compares; the script must have come to its end.
fn leaves_no_trace(case: &Case) -> Vec<String> {
    let look = || ["project", "home"].map(|d| fingerprint(&case.path(d)));
    let before = look();
    let (ended, tail) = case.run();
    assert_eq!(ended.end, ProcessEnd::Exited { code: 0 }, "{tail:#?}");
    assert!(ended.cleaned);
    assert_eq!(look(), before);
    tail
}

const EVERYTHING: &str = "
import os, shutil, sqlite3
home = os.environ['HOME']
open('model.pt', 'w').write('new weights')               # truncate
open(os.path.abspath('new.pt'), 'w').write('x')          # create, absolute
open('log.txt', 'a').write('line 2\\n')                   # append
os.remove('link')
os.symlink('elsewhere', 'link')
os.makedirs('old/deep/deeper')
shutil.rmtree('old')
assert not os.path.exists('old')
os.makedirs('old'); assert os.listdir('old') == []
os.chmod('model.pt', 0o600)
os.utime('log.txt', (1, 1))
os.rename('log.txt', 'renamed.txt')
os.link('model.pt', 'hard')
db = sqlite3.connect('runs.db'); db.execute('create table t (x)'); db.execute('insert into t values (1)'); db.commit()
assert db.execute('select x from t').fetchall() == [(1,)]
os.makedirs(home + '/.config/thing')
open(home + '/.config/thing/conf', 'w').write('c')
open(home + '/.bashrc', 'a').write('more')
open(home + '/.cache/cached', 'w').write('c')
os.truncate('renamed.txt', 0)
with open('model.pt', 'r+b') as f: f.seek(2); f.write(b'zz')
assert open('model.pt').read() == 'nezzweights'
os.chdir('..'); open('project/up.txt', 'w').write('up')
print('done')
";

#[test]
fn whatever_a_script_does_to_files() {
    assert_eq!(leaves_no_trace(&project(EVERYTHING)), ["done"]);
}

#[test]
fn directories_that_were_there_can_be_renamed_by_root_and_moved_by_everybody() {
    leaves_no_trace(&project("import shutil; shutil.move('old', 'moved'); open('moved/deep/file').read()"));
    if nix::unistd::geteuid().is_root() {
        leaves_no_trace(&project("import os; os.rename('old', 'moved'); open('moved/deep/file').read()"));
    }
}

#[test]
fn files_elsewhere_are_protected_too() {
    let unique = format!("autofit-test-{}", std::process::id());
    let places: Vec<PathBuf> = ["/tmp", "/var/tmp", "/dev/shm", "/opt", "/usr/local"]
        .iter()
        .map(|p| Path::new(p).join(&unique))
        .collect();
    let root = nix::unistd::geteuid().is_root();
    let script = format!(
        "import os\n\
         for p in {:?}:\n    open(p, 'w').write('x'); print(os.path.exists(p))\n",
        places.iter().take(if root { 5 } else { 3 }).collect::<Vec<_>>()
    );
    let tail = leaves_no_trace(&project(&script));
    assert!(tail.iter().all(|l| l == "True") && tail.len() >= 3, "{tail:?}");
    for place in places {
        assert!(!place.exists(), "{}", place.display());
    }
}

#[test]
fn the_trial_directory_is_real_and_shared_places_are_written() {
    let case = project("open('../trial/events', 'w').write('e'); open('old/deep/shared', 'w').write('s')")
        .with(|l| l.share = vec![l.cwd.join("old/deep")]);
    let (ended, tail) = case.run();
    assert_eq!(ended.end, ProcessEnd::Exited { code: 0 }, "{tail:#?}");
    assert_eq!(fs::read_to_string(case.path("trial/events")).unwrap(), "e");
    assert_eq!(fs::read_to_string(case.path("project/old/deep/shared")).unwrap(), "s");
}

#[test]
fn a_trial_directory_inside_of_the_project_is_real() {
    let case = project("open('.autofit/trial/events', 'w').write('e'); open('.autofit/x', 'w').write('e')")
        .with(|l| l.trial_dir = l.cwd.join(".autofit/trial"));
    let (ended, tail) = case.run();
    assert_eq!(ended.end, ProcessEnd::Exited { code: 0 }, "{tail:#?}");
    assert!(case.launch.trial_dir.join("events").exists());
    assert!(!case.path("project/.autofit/x").exists());
}

#[test]
fn caches_are_kept_between_the_trials_of_a_search() {
    let script = "
import os
for place in (os.environ['HOME'] + '/.cache/hub', os.environ['HOME'] + '/.triton', 'data'):
    os.makedirs(place, exist_ok=True)
    path = place + '/item'
    print(os.path.exists(path))
    open(path, 'w').write('x')
open('not-kept', 'x').write('x')
";
    let kept = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    let case = project(script).with(|l| {
        l.cache_layer = Some(kept.path().join("caches"));
        l.caches = vec![l.cwd.join("data")];
    });
    assert_eq!(leaves_no_trace(&case), ["False", "False", "False"]);
    assert_eq!(leaves_no_trace(&case), ["True", "True", "True"]);
}

#[test]
fn what_the_sandbox_uses_is_removed() {
    let base = autofit::sandbox::scratch::base().unwrap();
    let mine = || {
        let me = format!("{}-", std::process::id());
        fs::read_dir(&base)
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_str().unwrap().starts_with(&me))
            .count()
    };
    let case = project("import os, time; os.mkdir('closed', 0); print('up', flush=True); time.sleep(1)");
    let running = case.start().unwrap();
    assert!(mine() > 0);
    crate::support::wait(&running);
    // Other tests of this process run beside this one.
    crate::support::eventually("scratch is gone", || mine() == 0);
}

#[test]
fn scratch_of_a_killed_launcher_is_removed_and_that_of_living_ones_kept() {
    let base = autofit::sandbox::scratch::base().unwrap();
    // Process 1 lives, but was not started at tick 77.
    let left = base.join("1-77-0");
    fs::create_dir_all(left.join("layer-1/work/work")).unwrap();
    fs::set_permissions(left.join("layer-1/work/work"), fs::Permissions::from_mode(0o000)).unwrap();
    let other = base.join("a-search");
    fs::create_dir_all(&other).unwrap();
    let ours = autofit::sandbox::scratch::Scratch::create().unwrap();
    autofit::sandbox::scratch::sweep();
    assert!(!left.exists() && other.exists() && ours.path().exists());
    fs::remove_dir(other).unwrap();
}

#[test]
fn shared_memory_is_the_trials_own() {
    let case = project(
        "import os\n\
         from multiprocessing import shared_memory\n\
         m = shared_memory.SharedMemory(create=True, size=1 << 20, name='autofit-left-behind')\n\
         m.buf[0] = 1\n\
         print(os.listdir('/dev/shm'), flush=True)\n\
         os._exit(0)",
    );
    let tail = leaves_no_trace(&case);
    assert!(tail.iter().any(|l| l.contains("autofit-left-behind")), "{tail:?}");
    let slow = project(
        "open('/dev/shm/autofit-seen', 'w').write('x'); print('up', flush=True); import time; time.sleep(30)",
    );
    let running = slow.start().unwrap();
    crate::support::eventually("it is up", || running.tail(1) == ["up"]);
    assert!(running.shared_memory().unwrap().join("autofit-seen").exists());
    assert!(!Path::new("/dev/shm/autofit-seen").exists());
    drop(running);
    assert!(!Path::new("/dev/shm/autofit-left-behind").exists());
}

#[test]
fn a_read_only_project_stays_so() {
    let case = project("open('../trial/x', 'w').write('x')\nopen('model.pt', 'a').write('x')");
    fs::set_permissions(case.launch.cwd.join("model.pt"), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(&case.launch.cwd, fs::Permissions::from_mode(0o555)).unwrap();
    let before = fingerprint(&case.launch.cwd);
    let (ended, tail) = case.run();
    // Root writes to its copy, others are refused as they are outside.
    let code = i32::from(!nix::unistd::geteuid().is_root());
    assert_eq!(ended.end, ProcessEnd::Exited { code }, "{tail:#?}");
    assert_eq!(fingerprint(&case.launch.cwd), before);
}

#[test]
fn devices_and_sockets_of_the_system_stay_usable() {
    let case = project(
        "import os, socket\n\
         open('/dev/null', 'w').write('x'); open('/dev/urandom', 'rb').read(4)\n\
         a, b = os.openpty(); os.close(a)\n\
         s = socket.socket(socket.AF_UNIX); s.bind('own.sock'); s.listen()\n\
         c = socket.socket(socket.AF_UNIX); c.connect('own.sock')\n\
         print(os.getpid() == int(os.readlink('/proc/self')), os.cpu_count() > 0)",
    );
    assert_eq!(leaves_no_trace(&case), ["True True"]);
}

#[test]
fn a_shell_sees_the_working_directory_that_it_was_given() {
    let case = sh("pwd; echo x > relative; cat relative").with(|l| l.isolation = Isolation::Overlay);
    let (_, tail) = case.run();
    assert_eq!(tail, [case.dir.path().to_str().unwrap(), "x"]);
    assert!(!case.path("relative").exists());
}
