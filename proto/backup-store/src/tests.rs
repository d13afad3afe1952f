use tally_proto::backup::Writer;

use super::{
    faults::{Fault, Faulty},
    *,
};

const PART: usize = 1000;

/// A backup of some parts, its bytes not to be made fewer.
fn backup(revision: u64) -> (Header, Bytes) {
    let keys = 40;
    let header = Header { cluster_id: 7, revision, keys, ..Header::default() };
    let mut writer = Writer::new(&header);
    let mut noise = revision.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for key in 0..keys {
        let value: Vec<u8> = (0..100)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                noise as u8
            })
            .collect();
        writer.record(&[0x11, key as u8], &value);
    }
    writer.finish();
    (header, writer.take())
}

fn store(objects: &Faulty) -> Store {
    let location = "s3://bucket/a/b".parse().unwrap();
    Store::over(Arc::new(objects.clone()), location, PART, u64::MAX)
}

async fn put(store: &Store, name: &str, bytes: &Bytes) -> Result<u64, Error> {
    let mut upload = store.upload(name, 0).await?;
    // In pieces that no part is a multiple of.
    for piece in bytes.chunks(333) {
        if let Err(error) = upload.write(Bytes::copy_from_slice(piece)).await {
            upload.abort().await;
            return Err(error);
        }
    }
    upload.finish().await
}

#[tokio::test]
async fn what_was_put_is_what_is_read() {
    let objects = Faulty::default();
    let store = store(&objects);
    let (header, bytes) = backup(3);
    assert!(bytes.len() > 3 * PART, "it has several parts");
    assert_eq!(put(&store, "x.partial", &bytes).await.unwrap(), bytes.len() as u64);
    let checked = store.check("x.partial").await.unwrap();
    assert_eq!((&checked.header, checked.bytes), (&header, bytes.len() as u64));
    assert_eq!(store.header("x.partial").await.unwrap(), (header, bytes.len() as u64));
    let mut file = Vec::new();
    assert_eq!(store.fetch("x.partial", &mut file).await.unwrap(), checked);
    assert_eq!(file, bytes);
    store.rename("x.partial", "x.backup", &checked).await.unwrap();
    assert_eq!(objects.names().await, ["a/b/x.backup"]);
    // Only what is right below the prefix is found.
    for other in ["a/b/c/y.backup", "a/bb/z.backup", "w.backup"] {
        objects.objects.put(&Path::from(other), "x".into()).await.unwrap();
    }
    assert_eq!(store.names(|name| name.ends_with(".backup")).await.unwrap(), ["x.backup"]);
    store.remove("x.backup").await.unwrap();
    store.remove("x.backup").await.unwrap();
    let gone = store.check("x.backup").await.unwrap_err();
    assert!(matches!(gone, Error::NotFound { .. }), "{gone}");
    assert_eq!(gone.to_string(), "s3://bucket/a/b/x.backup: it is not there");
}

/// What is too large to be copied gets its name in parts, and is checked on the way.
#[tokio::test]
async fn a_large_one_gets_its_name_in_parts() {
    let objects = Faulty::default();
    let store = Store { copy_bytes_max: 10, ..store(&objects) };
    let (_, bytes) = backup(3);
    put(&store, "x.partial", &bytes).await.unwrap();
    let checked = store.check("x.partial").await.unwrap();
    // Somebody puts another one there meanwhile.
    let (_, other) = backup(4);
    put(&store, "x.partial", &other).await.unwrap();
    let error = store.rename("x.partial", "x.backup", &checked).await.unwrap_err();
    assert!(matches!(error, Error::Wrong { .. }), "{error}");
    assert_eq!(objects.names().await, ["a/b/x.partial"]);
    put(&store, "x.partial", &bytes).await.unwrap();
    store.rename("x.partial", "x.backup", &checked).await.unwrap();
    assert_eq!(objects.names().await, ["a/b/x.backup"]);
    assert_eq!(objects.bytes("a/b/x.backup").await, bytes);
}

#[tokio::test]
async fn nothing_is_there_of_what_was_not_finished() {
    let (_, bytes) = backup(3);
    // Whichever request it is that fails, or never ends: nothing is there, or all of it.
    for fault in [Fault::Fails, Fault::AnswerLost, Fault::Hangs] {
        for at in 0.. {
            let objects = Faulty::default();
            let store = store(&objects);
            objects.tell(fault, at, 1);
            let patience = Duration::from_millis(20);
            let put = tokio::time::timeout(patience, put(&store, "x", &bytes)).await;
            for name in objects.names().await {
                assert_eq!(objects.bytes(&name).await, bytes, "{fault:?} of request {at}");
            }
            if objects.requests() <= at {
                assert_eq!(put.unwrap().unwrap(), bytes.len() as u64);
                assert!(at > 5, "some parts were sent");
                break;
            }
        }
    }
}

#[tokio::test]
async fn damage_is_found_where_it_is() {
    let objects = Faulty::default();
    let store = store(&objects);
    let (_, bytes) = backup(3);
    objects.tell(Fault::Damages, 2, 1);
    put(&store, "x.partial", &bytes).await.unwrap();
    let error = store.check("x.partial").await.unwrap_err();
    assert!(matches!(error, Error::Wrong { .. }), "{error}");
    assert!(error.to_string().contains("s3://bucket/a/b/x.partial: it is damaged"), "{error}");
}

#[tokio::test]
async fn refused_credentials_are_said_to_be() {
    let objects = Faulty::default();
    objects.tell(Fault::Refuses, 0, u64::MAX);
    let error = store(&objects).names(|_| true).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "s3://bucket/a/b/: the store refuses these credentials: AccessDenied: Access Denied."
    );
}

#[tokio::test]
async fn a_refusal_is_one_however_it_is_told() {
    let text = "Server returned non-2xx status code: 403 Forbidden: <Error><Code>SignatureDoesNotMatch\
                </Code></Error>";
    let error = object_store::Error::Generic { store: "S3", source: text.into() };
    let error = store(&Faulty::default()).error("x", error);
    assert_eq!(
        error.to_string(),
        "s3://bucket/a/b/x: the store refuses these credentials: SignatureDoesNotMatch"
    );
}

#[test]
fn what_a_store_says_is_a_short_line() {
    let text = "Generic error - status 500: <?xml?>\n<Error><Code>SlowDown</Code>\n\
                <Message>Please\nslow down</Message><AWSAccessKeyId>X</AWSAccessKeyId></Error>";
    assert_eq!(said(text), "SlowDown: Please slow down");
    let text = "Generic S3 error: Error performing PUT https://host/bucket/key?uploadId=x in 5.6s, after 10 retries, \
                max_retries: 10, retry_timeout: 60s  - HTTP error: client error (Connect): refused";
    assert_eq!(said(text), "HTTP error: client error (Connect): refused");
    assert!(said(&"long ".repeat(1000)).chars().count() < PROBLEM_CHARS_MAX + 5);
}

#[test]
fn an_object_is_named_below_where_it_is() {
    let of = |text: &str| text.parse::<Location>().unwrap().of_object();
    let (parent, name) = of("s3://bucket/a/b/x.backup").unwrap();
    assert_eq!(
        (parent.shown(&name), name.as_str()),
        ("s3://bucket/a/b/x.backup".into(), "x.backup")
    );
    let (parent, name) = of("s3://bucket/x").unwrap();
    assert_eq!((parent.prefix.as_str(), name.as_str()), ("", "x"));
    assert_eq!(of("s3://bucket/"), None);
}
