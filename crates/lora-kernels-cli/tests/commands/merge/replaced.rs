//! What --force replaces, and what it doesn't.

use std::os::unix::fs::symlink;

use super::names;
use crate::scene::Scene;

fn scene(test: &str) -> Scene {
    let scene = Scene::new("replaced", test);
    let weight = scene.random(&[4, 4]);
    scene.put("base/model.safetensors", &[("q.weight", &weight)]);
    scene.put("alone.safetensors", &[("q.weight", &weight)]);
    scene.text("base/config.json", "{}");
    scene.text("base/README.md", "the base's");
    scene.text("base/1_Pooling/config.json", "{}");
    scene.adapter_of("a", "q", [4, 4]);
    scene
}

/// Whatever lies in OUT that a merge doesn't write stays, with all else that lies there.
#[test]
fn foreign_files_are_listed_and_stay() {
    for (at, foreign) in [
        "thesis.txt",
        ".git/HEAD",
        "optimizer.pt",
        "trainer_state.json",
        "checkpoint-10/model.safetensors",
        "adapter_model.safetensors",
        "1_Pooling/notes.txt",
        "additional_chat_templates/notes.txt",
        "config.json/thesis.txt",
        "notes/model.safetensors",
        "model.bin",
        ".hidden",
    ]
    .into_iter()
    .enumerate()
    {
        let scene = scene(&format!("foreign_{at}"));
        if !foreign.starts_with("config.json") {
            scene.merge(&["base", "a"], "out", &[]);
        }
        scene.text(&format!("out/{foreign}"), "valuable");
        scene.text("out/model.safetensors", "old");
        let before = names(&scene.path("out"));
        let (status, message) = scene.run(&["base", "a"], "out", &[]).unwrap_err();
        assert_eq!(status, 2, "{foreign}: {message}");
        let shown = match foreign.split_once('/') {
            Some(("1_Pooling" | "additional_chat_templates", _)) | None => foreign.to_owned(),
            Some((folder, _)) => format!("{folder}/"),
        };
        assert!(message.contains(&shown), "{shown} is not in: {message}");
        assert_eq!(names(&scene.path("out")), before);
        for (name, text) in [(foreign, "valuable"), ("model.safetensors", "old")] {
            let left = std::fs::read_to_string(scene.path("out").join(name)).unwrap();
            assert_eq!(left, text, "{name}");
        }
        assert_eq!(
            names(&scene.folder),
            ["a", "alone.safetensors", "base", "out"]
        );
    }
}

#[test]
fn many_foreign_files_are_counted() {
    let scene = scene("many");
    scene.merge(&["base", "a"], "out", &[]);
    for number in 0..20 {
        scene.text(&format!("out/{number:02}.txt"), "");
    }
    let (_, message) = scene.run(&["base", "a"], "out", &[]).unwrap_err();
    assert!(
        message.contains("00.txt, 01.txt, 02.txt and 17 more"),
        "{message}"
    );
}

/// An output of this or another base's merge is replaced as a whole.
#[test]
fn an_earlier_output_is_replaced() {
    let scene = scene("earlier");
    scene.text("a/tokenizer.json", "{}");
    scene.text("a/additional_chat_templates/tools.jinja", "x");
    scene.merge(&["base", "a"], "out", &[]);
    std::fs::remove_file(scene.path("a/tokenizer.json")).unwrap();
    std::fs::remove_dir_all(scene.path("a/additional_chat_templates")).unwrap();
    scene.text("out/model.fp16.safetensors", "old");
    scene.text("out/model-00001-of-00002.safetensors", "old");
    scene.text("out/model.safetensors.index.json", "old");
    // A link goes, and not what it leads to.
    scene.text("kept/params.json", "kept");
    symlink("../kept/params.json", scene.path("out/params.json")).unwrap();
    scene.merge(&["base", "a"], "out", &[]);
    assert_eq!(
        names(&scene.path("out")),
        ["1_Pooling", "README.md", "config.json", "model.safetensors"]
    );
    assert_eq!(names(&scene.path("kept")), ["params.json"]);
    // An empty folder is one in which nothing can be lost.
    std::fs::create_dir(scene.path("empty")).unwrap();
    scene.merge(&["base", "a"], "empty", &[]);
}

#[test]
fn a_folder_without_weights_is_no_model() {
    let scene = scene("without_weights");
    scene.text("out/config.json", "mine");
    let (status, message) = scene.run(&["base", "a"], "out", &[]).unwrap_err();
    assert!(status == 2 && message.contains("no weights"), "{message}");
    assert_eq!(names(&scene.path("out")), ["config.json"]);
}

#[test]
fn a_file_is_replaced_only_by_its_like() {
    let scene = scene("files");
    scene.text("thesis.txt", "valuable");
    let (status, message) = scene
        .run(&["alone.safetensors", "a"], "thesis.txt", &[])
        .unwrap_err();
    assert!(status == 2 && message.contains("another kind"), "{message}");
    let left = std::fs::read_to_string(scene.path("thesis.txt")).unwrap();
    assert_eq!(left, "valuable");
    scene.merge(&["alone.safetensors", "a"], "out", &[]);
    scene.merge(&["alone.safetensors", "a"], "out", &[]);
    scene.text("empty.txt", "");
    scene.merge(&["alone.safetensors", "a"], "empty.txt", &[]);
}
