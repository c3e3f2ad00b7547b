//! Downloading a file: gone on with where it broke off, checked before it gets its name.

use super::published::{Checksum, File};
use crate::failure::Failure;
use md5::Md5;
use sha2::{Digest, Sha256};
use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::{StatusCode, header};

/// How often a connection that breaks is taken up again while it brings nothing new.
const TRIES: u32 = 5;
const WAIT: Duration = Duration::from_millis(500);
/// How long a server may send nothing before the connection counts as broken; so long a stop by the user waits,
/// too. Tests have less time.
const STALL: Duration = if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(20) };
const CHUNK: usize = 1 << 16;

/// Why a download ended early.
#[derive(Debug)]
pub enum Interruption {
    /// The user wants to stop; what has come is kept.
    Stopped,
    /// It failed.
    Failed(Failure),
}

impl From<Failure> for Interruption {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Fetches `file` from `base` into `folder`; `watch` is told how many bytes are there, and says whether to
/// stop. Proxies are those of the environment (`https_proxy` and so on).
///
/// # Errors
/// If the server cannot be reached or does not have the file, what it sends is something else, or the disk is full.
pub fn download(
    file: &File,
    base: &str,
    folder: &Path,
    mut watch: impl FnMut(u64) -> bool,
) -> Result<PathBuf, Interruption> {
    let (path, partial) = (folder.join(file.name), folder.join(format!("{}.partial", file.name)));
    if path.is_file() {
        check(file, &path).map_err(|problem| {
            Failure::input(format!(
                "{}: is there, but {problem}; remove it to fetch it again",
                path.display()
            ))
        })?;
        return Ok(path);
    }
    let url = format!("{base}{}", file.name);
    let mut out = (OpenOptions::new().read(true).append(true).create(true).open(&partial))
        .map_err(|error| cannot_write(&partial, error))?;
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(30)))
            .timeout_per_read(Some(STALL))
            .http_status_as_error(false)
            .build(),
    );
    let mut tries = 0;
    loop {
        let have = out.seek(SeekFrom::End(0)).map_err(|error| cannot_write(&partial, error))?;
        if file.bytes.is_some_and(|bytes| have >= bytes) {
            break;
        }
        match receive(&agent, &url, file, &mut out, &partial, have, &mut watch)? {
            Received::All => break,
            Received::Part(problem) => {
                let now = out.seek(SeekFrom::End(0)).map_err(|error| cannot_write(&partial, error))?;
                if watch(now) {
                    return Err(Interruption::Stopped);
                }
                tries = if now > have { 0 } else { tries + 1 };
                if tries >= TRIES {
                    let message =
                        format!("{url}: {problem}; {now} bytes have come, the same call goes on from there");
                    return Err(Failure::work(message).into());
                }
                std::thread::sleep(WAIT);
            }
        }
    }
    out.sync_all().map_err(|error| cannot_write(&partial, error))?;
    if let Err(problem) = check(file, &partial) {
        // Going on from a wrong beginning would never end well.
        let _ = std::fs::remove_file(&partial);
        return Err(Failure::work(format!("{url}: {problem}: what came is not the published file")).into());
    }
    std::fs::rename(&partial, &path).map_err(|error| cannot_write(&path, error))?;
    Ok(path)
}

enum Received {
    All,
    /// The connection broke, for this reason.
    Part(String),
}

/// One request, for what is missing after the first `have` bytes.
fn receive(
    agent: &ureq::Agent,
    url: &str,
    file: &File,
    out: &mut std::fs::File,
    partial: &Path,
    have: u64,
    watch: &mut impl FnMut(u64) -> bool,
) -> Result<Received, Interruption> {
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header(header::RANGE, format!("bytes={have}-"));
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(error) => return Ok(Received::Part(error.to_string())),
    };
    let status = response.status();
    let mut have = match status {
        StatusCode::PARTIAL_CONTENT => have,
        // A server that knows no ranges sends all again.
        StatusCode::OK => {
            out.set_len(0).map_err(|error| cannot_write(partial, error))?;
            0
        }
        StatusCode::RANGE_NOT_SATISFIABLE => return Ok(Received::All),
        status if status.is_server_error() => {
            return Ok(Received::Part(format!("the server answers {status}")));
        }
        status => {
            let message = format!("{url}: the server answers {status}; fetch {} by hand", file.name);
            return Err(Failure::work(message).into());
        }
    };
    let promised = response.headers().get(header::CONTENT_LENGTH);
    let promised: Option<u64> = promised.and_then(|length| length.to_str().ok()?.parse().ok());
    let expected = promised.map(|length| have + length);
    let most = file.bytes.or(expected);
    let mut body = response.into_body().into_reader();
    let mut chunk = vec![0; CHUNK];
    loop {
        if watch(have) {
            return Err(Interruption::Stopped);
        }
        let count = match body.read(&mut chunk) {
            Ok(0) if expected.is_some_and(|expected| have < expected) => {
                return Ok(Received::Part("the connection was closed too early".into()));
            }
            Ok(0) => return Ok(Received::All),
            Ok(count) => count,
            Err(error) => return Ok(Received::Part(error.to_string())),
        };
        if most.is_some_and(|most| have + count as u64 > most) {
            let _ = std::fs::remove_file(partial);
            return Err(Failure::work(format!("{url}: more bytes came than the file has")).into());
        }
        out.write_all(&chunk[..count]).map_err(|error| cannot_write(partial, error))?;
        have += count as u64;
    }
}

/// What tells a file from the published one, in words.
fn check(file: &File, path: &Path) -> Result<(), String> {
    let mut content = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let len = content.metadata().map_err(|error| error.to_string())?.len();
    if let Some(bytes) = file.bytes
        && bytes != len
    {
        return Err(format!("it has {len} bytes instead of {bytes}"));
    }
    let (name, expected, found) = match file.checksum {
        Checksum::Sha256(expected) => ("SHA-256", expected, digest::<Sha256>(&mut content)),
        Checksum::Md5(expected) => ("MD5", expected, digest::<Md5>(&mut content)),
    };
    let found = found.map_err(|error| error.to_string())?;
    if found != expected {
        return Err(format!("its {name} is {found} instead of {expected}"));
    }
    Ok(())
}

fn digest<D: Digest>(content: &mut impl Read) -> std::io::Result<String> {
    let mut digest = D::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = content.read(&mut chunk)?;
        if count == 0 {
            return Ok(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        digest.update(&chunk[..count]);
    }
}

fn cannot_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::work(format!("{}: cannot be written: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    const CONTENT: &[u8] = b"The quick brown fox jumps over the lazy dog";
    const FILE: File = File {
        name: "fox.txt",
        base: "",
        bytes: Some(CONTENT.len() as u64),
        checksum: Checksum::Md5("9e107d9d372bb6826bd81d3542a419d6"),
    };

    /// How a server behaves, request by request.
    #[derive(Clone, Copy)]
    enum Answer {
        /// Sends so many bytes of what was asked for, and hangs up.
        Cut(usize),
        Whole,
        /// Sends all, whatever was asked for.
        NoRanges,
        Other(&'static [u8]),
        /// Sends so many bytes of what was asked for, and then nothing, without hanging up.
        Stall(usize),
        /// Takes the request and answers nothing.
        Silence,
        Status(&'static str),
    }

    /// Serves on this machine; returns the base address.
    fn serve(answers: Vec<Answer>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let mut stalled = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut start = 0;
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    let line = line.unwrap().to_lowercase();
                    if let Some(range) = line.strip_prefix("range: bytes=") {
                        start = range.trim_end_matches('-').parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let rest = &CONTENT[start..];
                let (status, promised, body) = match answer {
                    Answer::Silence => {
                        stalled.push(stream);
                        continue;
                    }
                    Answer::Cut(len) | Answer::Stall(len) => {
                        ("206 Partial Content", rest.len(), &rest[..len.min(rest.len())])
                    }
                    Answer::Whole => ("206 Partial Content", rest.len(), rest),
                    Answer::NoRanges => ("200 OK", CONTENT.len(), CONTENT),
                    Answer::Other(other) => ("200 OK", other.len(), other),
                    Answer::Status(status) => (status, 0, &CONTENT[..0]),
                };
                let status = if start == 0 && status.starts_with("206") { "200 OK" } else { status };
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {promised}\r\nConnection: close\r\n\r\n"
                )
                .unwrap();
                stream.write_all(body).unwrap();
                if matches!(answer, Answer::Stall(_)) {
                    stalled.push(stream);
                }
            }
            // Until the client has given them up.
            for mut stream in stalled {
                let _ = stream.read(&mut [0]);
            }
        });
        base
    }

    fn fetch(answers: Vec<Answer>, before: Option<&[u8]>) -> (Result<Vec<u8>, String>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        if let Some(before) = before {
            std::fs::write(dir.path().join("fox.txt.partial"), before).unwrap();
        }
        let result = download(&FILE, &serve(answers), dir.path(), |_| false);
        let result = match result {
            Ok(path) => Ok(std::fs::read(path).unwrap()),
            Err(Interruption::Failed(failure)) => Err(failure.message),
            Err(Interruption::Stopped) => panic!("nobody stopped it"),
        };
        let entries = std::fs::read_dir(dir.path()).unwrap();
        (result, entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect())
    }

    #[test]
    fn a_file_comes_in_one_piece_or_in_many() {
        for answers in [
            vec![Answer::Whole],
            vec![Answer::Cut(10), Answer::Cut(1), Answer::Whole],
            vec![Answer::Cut(10), Answer::NoRanges],
            vec![Answer::Cut(0), Answer::Status("503 Service Unavailable"), Answer::Whole],
        ] {
            let (result, files) = fetch(answers, None);
            assert_eq!((result.as_deref(), files), (Ok(CONTENT), vec!["fox.txt".to_owned()]));
        }
        assert_eq!(fetch(vec![Answer::Whole], Some(&CONTENT[..20])).0.as_deref(), Ok(CONTENT));
        assert_eq!(fetch(vec![], Some(CONTENT)).0.as_deref(), Ok(CONTENT));
    }

    #[test]
    fn what_is_not_the_file_does_not_get_its_name() {
        for (answers, before, word) in [
            (vec![Answer::Other(b"<html>please log in</html>, and some more text")], None, "more bytes"),
            (vec![Answer::Other(b"The quick brown fox jumps over the lazy cat")], None, "MD5"),
            (vec![Answer::Whole], Some(&b"the quick"[..]), "MD5"),
        ] {
            let (result, files) = fetch(answers, before);
            assert!(result.as_ref().unwrap_err().contains(word), "{result:?}");
            assert!(files.is_empty(), "{files:?}");
        }
        let (result, _) = fetch(vec![Answer::Status("404 Not Found")], None);
        assert!(result.unwrap_err().contains("404"));
    }

    #[test]
    fn a_server_that_gives_up_leaves_what_has_come() {
        let mut answers = vec![Answer::Cut(10)];
        answers.resize(1 + TRIES as usize, Answer::Cut(0));
        let (result, files) = fetch(answers, None);
        assert!(result.unwrap_err().contains("10 bytes have come"));
        assert_eq!(files, ["fox.txt.partial"]);
    }

    #[test]
    fn a_server_that_falls_silent_is_asked_again() {
        let (result, files) =
            fetch(vec![Answer::Stall(10), Answer::Silence, Answer::Stall(0), Answer::Whole], None);
        assert_eq!((result.as_deref(), files), (Ok(CONTENT), vec!["fox.txt".to_owned()]));
        // A stop is seen between two tries, even where nothing has come.
        let (dir, mut asked) = (tempfile::tempdir().unwrap(), 0);
        let stop = |_| {
            asked += 1;
            true
        };
        let result = download(&FILE, &serve(vec![Answer::Silence]), dir.path(), stop);
        assert!(matches!(result, Err(Interruption::Stopped)) && asked == 1);
    }

    #[test]
    fn a_stop_keeps_what_has_come() {
        let dir = tempfile::tempdir().unwrap();
        let result = download(&FILE, &serve(vec![Answer::Whole]), dir.path(), |have| have > 0);
        assert!(matches!(result, Err(Interruption::Stopped)));
        assert!(std::fs::metadata(dir.path().join("fox.txt.partial")).unwrap().len() > 0);
    }
}
