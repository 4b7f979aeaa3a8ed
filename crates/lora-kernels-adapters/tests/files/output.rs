//! Outputs appear complete or not at all.

use std::io::Write;

use lora_kernels_adapters::output::{OutputFile, OutputFolder, Overwrite};

use crate::assert_refused;

fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn nothing_has_the_name_before_it_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out");
    let mut file = OutputFile::create(&target, Overwrite::Never).unwrap();
    file.file().write_all(b"whole").unwrap();
    assert!(!target.exists());
    assert_eq!(
        names(folder.path()),
        [format!(".out.partial-{}", std::process::id())]
    );
    file.finish().unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"whole");

    let other = folder.path().join("folder");
    let output = OutputFolder::create(&other, Overwrite::Never).unwrap();
    std::fs::write(output.path().join("x"), "x").unwrap();
    assert!(!other.exists());
    drop(output);
    assert_eq!(
        names(folder.path()),
        ["out"],
        "what was given up is removed"
    );
}

#[test]
fn leftovers_of_the_same_target_are_removed_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for kept in [
        ".out.partial-",
        ".out.partial-12x",
        ".output.partial-1",
        "out.partial-1",
    ] {
        std::fs::write(at(kept), "").unwrap();
    }
    std::fs::write(at(".out.partial-4000000001"), "dead").unwrap();
    std::fs::create_dir(at(".out.partial-4000000002")).unwrap();
    std::fs::write(at(".out.partial-4000000002").join("x"), "dead").unwrap();
    // A leftover that another process is still writing.
    let alive = std::fs::File::create(at(".out.partial-4000000003")).unwrap();
    rustix::fs::flock(&alive, rustix::fs::FlockOperation::LockExclusive).unwrap();
    drop(OutputFile::create(&at("out"), Overwrite::Never).unwrap());
    assert_eq!(
        names(folder.path()),
        [
            ".out.partial-",
            ".out.partial-12x",
            ".out.partial-4000000003",
            ".output.partial-1",
            "out.partial-1"
        ]
    );
}

#[test]
fn what_exists_is_replaced_only_if_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, dir) = (folder.path().join("file"), folder.path().join("dir"));
    std::fs::write(&file, "old").unwrap();
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("old"), "").unwrap();
    assert_refused(OutputFile::create(&file, Overwrite::Never), &["exists"]);
    assert_refused(OutputFolder::create(&dir, Overwrite::Never), &["exists"]);
    assert_refused(
        OutputFile::create(&dir, Overwrite::Replace),
        &["it is a folder"],
    );
    assert_refused(
        OutputFolder::create(&file, Overwrite::Replace),
        &["it is a file"],
    );

    let output = OutputFile::create(&file, Overwrite::Replace).unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"old");
    output.finish().unwrap();
    assert_eq!(std::fs::read(&file).unwrap(), b"");

    let output = OutputFolder::create(&dir, Overwrite::Replace).unwrap();
    std::fs::write(output.path().join("new"), "").unwrap();
    output.finish().unwrap();
    assert_eq!(names(&dir), ["new"]);

    // A target that is created meanwhile stays.
    let late = folder.path().join("late");
    let output = OutputFile::create(&late, Overwrite::Never).unwrap();
    std::fs::write(&late, "theirs").unwrap();
    let kept = format!(".late.partial-{}", std::process::id());
    assert_refused(output.finish(), &["exists", "it is complete", &kept]);
    assert_eq!(std::fs::read(&late).unwrap(), b"theirs");
    assert_eq!(names(folder.path()), [&kept, "dir", "file", "late"]);
}
