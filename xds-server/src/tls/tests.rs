use super::*;

/// A self-signed certificate and its key, PEM.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            directory: tempfile::tempdir().expect("a directory"),
        };
        let (certificate, key) = pair();
        files.write("tls.pem", &certificate);
        files.write("tls.key", &key);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    fn tls(&self) -> ServerTls {
        ServerTls::from_files(self.path("tls.pem"), self.path("tls.key"))
    }

    fn refusal(&self) -> String {
        let error = Reloading::start(self.tls()).err().expect("not usable");
        error
            .to_string()
            .replace(&format!("{}/", self.directory.path().display()), "")
    }
}

#[test]
fn what_is_wrong_names_the_file() {
    let files = Files::new();
    files.write("tls.key", "nothing");
    assert!(
        files.refusal().starts_with("tls.key: no private key: "),
        "{}",
        files.refusal()
    );
    files.write("tls.key", &pair().1);
    assert_eq!(
        files.refusal(),
        "the private key tls.key does not belong to the certificate tls.pem"
    );
    files.write("tls.pem", "nothing");
    assert_eq!(files.refusal(), "tls.pem: holds no certificate in PEM form");
    std::fs::remove_file(files.path("tls.pem")).expect("it is there");
    assert!(
        files.refusal().starts_with("tls.pem: No such file"),
        "{}",
        files.refusal()
    );
}

#[test]
fn client_roots_are_checked_too() {
    let files = Files::new();
    files.write("ca.pem", "nothing");
    let tls = files.tls().client_ca(files.path("ca.pem"));
    let error = Reloading::start(tls).err().expect("not usable");
    assert!(
        error
            .to_string()
            .ends_with("ca.pem: holds no certificate in PEM form"),
        "{error}"
    );
}

#[test]
fn a_broken_pair_leaves_the_last_good_one() {
    let files = Files::new();
    let mut reloading = Reloading::start(files.tls()).expect("usable");
    let mut config = reloading.config();
    let first = config.borrow_and_update().clone();
    let now = SystemTime::now();

    let (certificate, key) = pair();
    files.write("tls.pem", &certificate);
    let error = reloading.reload(now).expect_err("half a rotation");
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    assert!(!config.has_changed().expect("it lives"));

    files.write("tls.key", &key);
    reloading.reload(now).expect("a whole rotation");
    assert!(config.has_changed().expect("it lives"));
    assert!(!Arc::ptr_eq(&first, &config.borrow_and_update()));

    reloading.reload(now).expect("as before");
    assert!(!config.has_changed().expect("it lives"), "nothing new");
}

#[tokio::test]
async fn a_change_of_the_files_is_noticed() {
    let files = Files::new();
    let reloading = Reloading::start(files.tls()).expect("usable");
    let mut config = reloading.config();
    let following = tokio::spawn(reloading.follow());
    let (certificate, key) = pair();
    files.write("tls.key", &key);
    files.write("tls.pem", &certificate);
    let noticed = tokio::time::timeout(Duration::from_secs(30), config.changed());
    noticed.await.expect("in time").expect("it lives");
    following.abort();
}

#[test]
fn the_age_of_a_certificate() {
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let lifetime = Lifetime {
        from: at(1000),
        until: at(2000),
    };
    for (now, age) in [
        (999, Age::NotYet),
        (1000, Age::Good),
        (1799, Age::Good),
        (1800, Age::Overdue),
        (1999, Age::Overdue),
        (2000, Age::Expired),
    ] {
        assert_eq!(lifetime.age(at(now)), age, "{now}");
    }
}
