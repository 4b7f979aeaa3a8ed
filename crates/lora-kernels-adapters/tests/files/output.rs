//! Outputs appear complete or not at all.

use std::io::Write;

use lora_kernels_adapters::output::{self, OutputFile, OutputFolder, Overwrite};

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

/// In the same process; the command line's tests have it between processes.
#[test]
fn an_output_is_written_by_one_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let (file, dir) = (folder.path().join("file"), folder.path().join("dir"));
    let first = OutputFile::create(&file, Overwrite::Never).unwrap();
    let second = OutputFolder::create(&dir, Overwrite::Never).unwrap();
    let before = names(folder.path());
    for overwrite in [Overwrite::Never, Overwrite::Replace] {
        let busy = ["is being written by another run", ".partial-"];
        assert_refused(OutputFile::create(&file, overwrite), &busy);
        assert_refused(OutputFolder::create(&dir, overwrite), &busy);
    }
    assert_refused(output::check_free(&file), &["is being written"]);
    assert_refused(output::check_free(&dir), &["is being written"]);
    assert_eq!(names(folder.path()), before);
    output::check_free(&folder.path().join("other")).unwrap();
    drop(second);
    output::check_free(&dir).unwrap();
    first.finish().unwrap();
    OutputFile::create(&file, Overwrite::Replace).unwrap();
}

/// What appeared in a folder meanwhile isn't removed with it.
#[test]
fn of_a_replaced_folder_only_known_files_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    std::fs::create_dir_all(out.join("sub/empty")).unwrap();
    for name in ["known", "sub/known", "thesis", "sub/thesis"] {
        std::fs::write(out.join(name), name).unwrap();
    }
    let output = OutputFolder::create(&out, Overwrite::Replace).unwrap();
    std::fs::write(output.path().join("new"), "").unwrap();
    let finished = output.finish_removing(|path| path.ends_with("known"));
    let kept = format!(".out.replaced-{}", std::process::id());
    assert_refused(finished, &["is complete, but", "held 2 more", &kept]);
    assert_eq!(names(folder.path()), [&kept, "out"]);
    assert_eq!(names(&out), ["new"]);
    let kept = folder.path().join(kept);
    assert_eq!(names(&kept), ["sub", "thesis"]);
    assert_eq!(names(&kept.join("sub")), ["thesis"]);

    // A link is removed, and not what it leads to.
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("out", &link).unwrap();
    let output = OutputFolder::create(&link, Overwrite::Replace).unwrap();
    output.finish().unwrap();
    assert!(link.is_dir() && !link.is_symlink());
    assert_eq!(names(&out), ["new"]);
}

#[test]
fn an_output_has_the_mode_that_is_asked_for() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    let file = OutputFile::create_with_mode(&at("file"), Overwrite::Never, 0o600).unwrap();
    let dir = OutputFolder::create_with_mode(&at("dir"), Overwrite::Never, 0o700).unwrap();
    assert_eq!((mode(file.path()), mode(dir.path())), (0o600, 0o700));
    file.finish().unwrap();
    dir.finish().unwrap();
    assert_eq!((mode(&at("file")), mode(&at("dir"))), (0o600, 0o700));
}

/// A rename to such a name fails when all the work is done.
#[test]
fn a_name_that_can_only_be_a_folder_s_is_none_for_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["out/", "out/.", "out//"] {
        let target = folder.path().join(name);
        let refused = OutputFile::create(&target, Overwrite::Replace);
        assert_refused(refused, &[name, "a file is to be written"]);
        assert!(names(folder.path()).is_empty());
        for _ in 0..2 {
            let output = OutputFolder::create(&target, Overwrite::Replace).unwrap();
            output.finish().unwrap();
            assert_eq!(names(folder.path()), ["out"]);
        }
        std::fs::remove_dir(folder.path().join("out")).unwrap();
    }
}

/// Found before any work is done, not by the rename at the end.
#[cfg(target_os = "linux")]
#[test]
fn a_mounted_file_system_is_not_replaced() {
    let refused = OutputFolder::create("/proc".as_ref(), Overwrite::Replace);
    assert_refused(refused, &["/proc", "mounted"]);
}
