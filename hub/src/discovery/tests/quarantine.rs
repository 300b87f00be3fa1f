//! 20: what cannot be read is put aside, beside instances that must not notice.

use super::*;
use std::os::unix::fs::PermissionsExt;

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

fn junk(lab: &Lab, name: &str, bytes: &[u8]) -> PathBuf {
    let path = lab.registry.dir().join(name);
    write(&path, bytes);
    path
}

/// What was put aside, by the names that the files had.
fn aside(snapshot: &Snapshot) -> Vec<String> {
    let quarantined = snapshot.rejected.iter().filter(|file| file.path.parent().unwrap().ends_with("quarantine"));
    let path = |file: &Rejected| PathBuf::from(file.problem.observed["path"].as_str().unwrap());
    let mut names: Vec<String> =
        quarantined.map(|file| path(file).file_name().unwrap().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn each_kind_of_bad_file_is_put_aside_and_the_good_ones_are_not_touched() {
    let lab = Lab::new();
    let discovery = lab.hearing().await;
    let (shop, _blog) = (lab.register("shop").await, lab.register("blog").await);
    see(&discovery, "both", |snapshot| names(snapshot) == ["blog", "shop"]).await;
    let good = std::fs::read(lab.record_file("shop")).unwrap();
    let all = recorded(&discovery);
    // These stay: they are older than the bad ones, so they had their chance.
    let open = junk(&lab, "open.json", b"x");
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    let link = lab.registry.dir().join("link.json");
    std::os::unix::fs::symlink(&open, &link).unwrap();
    let newer = junk(&lab, "newer.json", b"{\"format\":2}");
    let copy = junk(&lab, "copy-of-a-live-one.json", &good);
    let mut bad: Vec<(String, Vec<u8>)> =
        [&b""[..], b"{\"format\":1,\"id\":", b"\x00\xff\xfe\x80", &vec![b' '; 2 << 20]]
            .into_iter()
            .map(|bytes| (format!("{}.json", Uuid::now_v7()), bytes.to_vec()))
            .collect();
    bad.push(("wrong-name.json".to_owned(), serde_json::to_vec(&record("nobody")).unwrap()));
    bad.iter().for_each(|(name, bytes)| write(&lab.registry.dir().join(name), bytes));
    bad.sort();
    let wanted: Vec<&String> = bad.iter().map(|(name, _)| name).collect();

    let seen = see(&discovery, "all bad ones put aside", |snapshot| aside(snapshot).iter().eq(wanted.clone())).await;
    for file in seen.rejected.iter().filter(|file| file.path.parent().unwrap().ends_with("quarantine")) {
        let was = Path::new(file.problem.observed["path"].as_str().unwrap()).file_name().unwrap().to_str().unwrap();
        let (_, bytes) = bad.iter().find(|(name, _)| name == was).unwrap();
        assert!(std::fs::read(&file.path).unwrap() == *bytes, "{was} is whole");
        assert!(Path::new(file.problem.observed["why"].as_str().unwrap()).is_file());
        assert!(!lab.registry.dir().join(was).exists());
    }
    for stays in [open, link, newer, copy] {
        assert!(stays.symlink_metadata().is_ok(), "{stays:?} was touched");
        assert!(seen.rejected.iter().any(|file| file.path == stays), "{stays:?} is told");
    }
    assert_eq!(std::fs::read(lab.record_file("shop")).unwrap(), good);
    assert!(all.await.iter().all(|snapshot| names(snapshot) == ["blog", "shop"]));
    shop.unregister().unwrap();
    lab.end().await;
}

/// A program of another language writes its record in place, a piece at a time, for longer than a bad file is left.
#[tokio::test]
async fn a_slow_writer_is_not_interrupted() {
    let lab = Lab::new();
    let discovery = lab.polling();
    let path = lab.record_file("slow");
    let json = serde_json::to_vec(&record("slow")).unwrap();
    write(&path, b"");
    let mut file = std::fs::File::options().append(true).open(&path).unwrap();
    for piece in json.chunks(json.len().div_ceil(12)) {
        tokio::time::sleep(suspects::SETTLED / 4).await;
        std::io::Write::write_all(&mut file, piece).unwrap();
    }
    see(&discovery, "the slow one", |snapshot| names(snapshot) == ["slow"]).await;
    assert!(discovery.snapshot.borrow().rejected.is_empty());
    lab.end().await;
}

#[tokio::test]
async fn a_record_is_not_put_aside_while_its_lease_is_held() {
    let lab = Lab::new();
    let discovery = lab.polling();
    let shop = lab.register("shop").await;
    see(&discovery, "shop", |snapshot| names(snapshot) == ["shop"]).await;
    let path = lab.record_file("shop");
    write(&path, b"junk");
    see(&discovery, "the junk", |snapshot| snapshot.rejected.len() == 1).await;
    // Younger than the other, so that one was due before.
    junk(&lab, "notes.json", b"junk");
    let seen = see(&discovery, "the other one put aside", |snapshot| aside(snapshot) == ["notes.json"]).await;
    assert!(path.exists() && names(&seen) == ["shop"]);
    drop(shop);
    see(&discovery, "both put aside", |snapshot| aside(snapshot).len() == 2).await;
    lab.end().await;
}
