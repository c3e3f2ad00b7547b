//! Where sampled images go: a folder, an array, or one picture; and how much of them is there already.

use crate::failure::Failure;
use crate::image_files::{ImageFolder, check_file_place, read_image, write_whole};
use checkpoint::atomic;
use data::ImageOptions;
use data::image_folder::{OVERVIEW, SAMPLES_RECORD};
use engine::ImageShape;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use train::grid;

/// Most images shown in grid.png.
pub const GRID_IMAGES: usize = 64;
/// Settings that a call names itself.
const ASKED: [&str; 5] = ["weights", "sampler", "steps", "spacing", "seed"];

/// Endings of files of kinds that are not written. A folder of such a name is hardly meant.
const OTHER_FILES: [&str; 13] =
    ["jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff", "ppm", "mp4", "zip", "tar", "parquet", "tfrecord"];

/// How images are stored, by the ending of `--out`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// A folder: `000000.png`, …, `grid.png`, `samples.json`.
    Folder,
    /// `.npz`: `arr_0`, bytes, [n, height, width, channels].
    Npz,
    /// `.npy`: the same array.
    Npy,
    /// `.raw`: its bytes alone.
    Raw,
    /// `.png`: one picture of them all.
    Grid,
}

impl Form {
    /// The form that a path's ending asks for, in small letters or large.
    pub fn of(path: &Path) -> Self {
        let ending = path.extension().and_then(|extension| extension.to_str());
        match ending.map(str::to_ascii_lowercase).as_deref() {
            Some("npz") => Self::Npz,
            Some("npy") => Self::Npy,
            Some("raw") => Self::Raw,
            Some("png") => Self::Grid,
            _ => Self::Folder,
        }
    }
}

/// What images are drawn, so that others are not mixed with them.
pub struct Plan {
    /// Images in all.
    pub count: usize,
    /// Their shape.
    pub image: ImageShape,
    /// All that decides their pixels, as an object.
    pub identity: Value,
}

/// Images being written.
pub struct Output {
    path: PathBuf,
    plan: Plan,
    sink: Sink,
    /// Images that are written: the first ones.
    written: usize,
    /// Keeps other processes from the folder while it is open; of a file being written, that file itself does.
    _lock: Option<File>,
}

enum Sink {
    Folder(ImageFolder),
    /// Pixels one after the other, in a file that has the output's name once it is whole.
    Array {
        form: Form,
        pixels: File,
        unfinished: PathBuf,
        record: PathBuf,
    },
    Grid(Vec<u8>),
}

/// Refuses a place where something is, before any work.
///
/// # Errors
/// If something would be lost or mixed.
pub fn check_place(path: &Path, resume: bool) -> Result<(), Failure> {
    let form = Form::of(path);
    // First, for that it can be resumed is true only when the other process has ended.
    match form {
        Form::Folder => drop(lock_folder(path)?),
        Form::Npz | Form::Npy | Form::Raw => {
            if let Ok(unfinished) = File::open(with_suffix(path, ".unfinished")) {
                lock(&unfinished, path)?;
            }
        }
        Form::Grid => {}
    }
    if form == Form::Folder {
        if resume && path.join(SAMPLES_RECORD).is_file() {
            return Ok(());
        }
        if is_other_file(path) && !path.is_dir() {
            return Err(Failure::input(format!(
                "{}: images go to a folder or to a file ending in .npz, .npy, .raw or .png; choose another --out",
                path.display()
            )));
        }
        return ImageFolder::check_vacant(path).map_err(|failure| {
            match path.join(SAMPLES_RECORD).is_file() {
                true => Failure::input(format!(
                    "{}: has sampled images; go on with --resume, or choose another --out",
                    path.display()
                )),
                false => failure,
            }
        });
    }
    if path.exists() {
        return Err(exists_already(path));
    }
    check_file_place(path, "--out")?;
    if resume && form == Form::Grid {
        return Err(Failure::input("one picture cannot be resumed; give a folder or a .npz as --out"));
    }
    if !resume && with_suffix(path, ".unfinished").exists() {
        return Err(Failure::input(format!(
            "{}: is there from a sampling that was stopped; go on with --resume, or remove it",
            with_suffix(path, ".unfinished").display()
        )));
    }
    Ok(())
}

/// The lock of a folder. None where there is no folder, or a system cannot open folders or lock them.
fn lock_folder(path: &Path) -> Result<Option<File>, Failure> {
    // Opening what is no folder may wait for ever: a pipe.
    let folder = path.is_dir().then(|| File::open(path));
    let Some(Ok(folder)) = folder else { return Ok(None) };
    lock(&folder, path)?;
    Ok(Some(folder))
}

/// Takes the lock of `file`, which stands for all that is written to `path`. A file system without locks has to
/// do without.
fn lock(file: &File, path: &Path) -> Result<(), Failure> {
    match atomic::try_lock(file) {
        Ok(false) => Err(Failure::input(format!(
            "{}: another process is writing samples there; wait for it, or choose another --out",
            path.display()
        ))),
        _ => Ok(()),
    }
}

/// Whether a path is named like a file that cannot be written: of another kind, or standard output.
fn is_other_file(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    path.as_os_str() == "-" || OTHER_FILES.iter().any(|other| ending.eq_ignore_ascii_case(other))
}

impl Output {
    /// Makes the place for the images, or opens it where it was left.
    ///
    /// # Errors
    /// If it cannot be made, holds other images, or another process writes there.
    pub fn open(path: &Path, plan: Plan) -> Result<Self, Failure> {
        let form = Form::of(path);
        let mut folder_lock = None;
        let (sink, written) = match form {
            Form::Folder => {
                let folder = ImageFolder::create(path, plan.count)?;
                folder_lock = lock_folder(path)?;
                plan.check_or_write(&path.join(SAMPLES_RECORD))?;
                let written = (0..plan.count).find(|&index| !folder.has_image(index)).unwrap_or(plan.count);
                (Sink::Folder(folder), written)
            }
            Form::Grid => (Sink::Grid(Vec::new()), 0),
            Form::Npz | Form::Npy | Form::Raw => {
                let (unfinished, record) =
                    (with_suffix(path, ".unfinished"), with_suffix(path, ".unfinished.json"));
                let failed = |error| cannot_write(&unfinished, error);
                let open = OpenOptions::new().read(true).append(true).create(true).open(&unfinished);
                let pixels = open.map_err(failed)?;
                lock(&pixels, path)?;
                // Who had the lock may have given the file this name just before letting go of it.
                if path.is_file() {
                    return Err(exists_already(path));
                }
                plan.check_or_write(&record)?;
                let len = plan.image.len() as u64;
                let written = pixels.metadata().map_err(failed)?.len() / len;
                let written = written.min(plan.count as u64);
                // An image cut short by a stop is drawn again.
                pixels.set_len(written * len).map_err(failed)?;
                (Sink::Array { form, pixels, unfinished, record }, written as usize)
            }
        };
        Ok(Self { path: path.to_owned(), plan, sink, written, _lock: folder_lock })
    }

    /// Images that are written.
    pub fn written(&self) -> usize {
        self.written
    }

    /// Adds the pixels of the next images.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn push(&mut self, images: &[u8]) -> Result<(), Failure> {
        match &mut self.sink {
            Sink::Folder(folder) => {
                folder.write_images(self.written, images, self.plan.image)?;
            }
            Sink::Array { pixels, unfinished, .. } => {
                pixels.write_all(images).map_err(|error| cannot_write(unfinished, error))?;
            }
            Sink::Grid(all) => all.extend_from_slice(images),
        }
        self.written += images.len() / self.plan.image.len();
        Ok(())
    }

    /// Completes the output.
    ///
    /// # Errors
    /// If it cannot be written; with --resume it can be tried again.
    pub fn finish(self) -> Result<(), Failure> {
        let Self { path, plan, sink, .. } = self;
        let image = plan.image;
        match sink {
            Sink::Grid(images) => {
                write_whole(&path, &grid::grid(&images, image).to_png().map_err(Failure::work)?)
            }
            Sink::Folder(folder) => {
                let mut shown = Vec::new();
                for index in 0..plan.count.min(GRID_IMAGES) {
                    shown.extend(read_written(&folder.image_path(index), image)?);
                }
                folder.write_picture(OVERVIEW, &grid::grid(&shown, image))
            }
            Sink::Array { form, mut pixels, unfinished, record } => {
                let failed = |error| cannot_write(&path, error);
                if form == Form::Raw {
                    // The file itself is what is wanted. Under a third name in between, a stop would lose it.
                    pixels.sync_all().and_then(|()| std::fs::rename(&unfinished, &path)).map_err(failed)?;
                    return remove_if_there(&record);
                }
                let partial = with_suffix(&path, ".partial");
                pixels.seek(SeekFrom::Start(0)).map_err(failed)?;
                // Not the file itself, whose lock is held until its successor has its name.
                let content = BufReader::with_capacity(1 << 20, &pixels);
                let shape = [plan.count, image.height, image.width, image.channels];
                match form {
                    Form::Npz => data::target::write_npz(&partial, content, plan.count as u64, image, None)
                        .map_err(Failure::work)?,
                    _ => write_npy(&partial, content, &shape).map_err(failed)?,
                }
                std::fs::rename(&partial, &path).map_err(failed)?;
                remove_if_there(&unfinished)?;
                remove_if_there(&record)
            }
        }
    }
}

impl Plan {
    /// Compares what `record` says is there with what is to be drawn; writes it where nothing is.
    fn check_or_write(&self, record: &Path) -> Result<(), Failure> {
        match std::fs::read_to_string(record) {
            Ok(text) => {
                let found: Value = serde_json::from_str(&text)
                    .map_err(|error| Failure::input(format!("{}: {error}", record.display())))?;
                let mut keys: Vec<_> = self.identity.as_object().into_iter().flatten().collect();
                // What was asked for before what follows from it.
                keys.sort_by_key(|(key, _)| {
                    ASKED.iter().position(|asked| asked == key).unwrap_or(ASKED.len())
                });
                for (key, value) in keys {
                    if found[key] != *value {
                        return Err(Failure::input(format!(
                            "{}: the images there were drawn with `{key}` {}, now it is {value}; choose another --out",
                            record.display(),
                            found[key],
                        )));
                    }
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let mut content = self.identity.clone();
                content["program"] = json!(concat!("ddpm ", env!("CARGO_PKG_VERSION")));
                let text = serde_json::to_string_pretty(&content).map_err(Failure::work)?;
                write_whole(record, text.as_bytes())
            }
            Err(error) => Err(Failure::input(format!("{}: {error}", record.display()))),
        }
    }
}

fn remove_if_there(path: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(cannot_write(path, error)),
        _ => Ok(()),
    }
}

fn write_npy(path: &Path, mut pixels: impl Read, shape: &[usize]) -> std::io::Result<()> {
    let mut out = File::create(path)?;
    out.write_all(&numpy::Header::encode(numpy::Element::U8, shape))?;
    std::io::copy(&mut pixels, &mut out)?;
    out.sync_all()
}

/// The pixels of an image that was written.
fn read_written(path: &Path, image: ImageShape) -> Result<Vec<u8>, Failure> {
    let options = ImageOptions { channels: Some(image.channels), ..ImageOptions::default() };
    match read_image(path, &options).map_err(Failure::work)? {
        (found, pixels) if found == image => Ok(pixels),
        _ => Err(Failure::work(format!("{}: not of the images' size {image}", path.display()))),
    }
}

fn exists_already(path: &Path) -> Failure {
    Failure::input(format!("{}: exists already; choose another --out, or remove it", path.display()))
}

fn cannot_write(path: &Path, error: std::io::Error) -> Failure {
    Failure::work(format!("{}: cannot be written: {error}", path.display()))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_array_that_cannot_be_completed_is_completed_by_another_try() {
        let image = ImageShape::new(1, 2, 3);
        let plan = || Plan { count: 3, image, identity: json!({ "seed": 1 }) };
        let images: Vec<u8> = (0..18).collect();
        for name in ["x.raw", "x.npy", "x.npz"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(name);
            let mut output = Output::open(&path, plan()).unwrap();
            output.push(&images).unwrap();
            // The last step, giving the output its name, is what fails.
            std::fs::create_dir_all(path.join("in the way")).unwrap();
            output.finish().unwrap_err();
            std::fs::remove_dir_all(&path).unwrap();
            let again = Output::open(&path, plan()).unwrap();
            assert_eq!(again.written(), 3, "{name}");
            again.finish().unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() >= 18, "{name}");
            if name == "x.raw" {
                assert_eq!(std::fs::read(&path).unwrap(), images);
            }
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "{name}");
        }
    }

    #[test]
    fn two_do_not_write_to_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let image = ImageShape::new(1, 2, 3);
        let plan = || Plan { count: 3, image, identity: json!({ "seed": 1 }) };
        for name in ["folder", "x.raw", "x.npy", "x.npz"] {
            let path = dir.path().join(name);
            let mut first = Output::open(&path, plan()).unwrap();
            first.push(&[7; 6]).unwrap();
            let second = [check_place(&path, false), check_place(&path, true)];
            for failure in second.into_iter().chain([Output::open(&path, plan()).map(drop)]) {
                let failure = failure.unwrap_err();
                assert!(failure.message.contains("another process"), "{name}: {}", failure.message);
                assert_eq!(failure.status, 2);
            }
            drop(first);
            check_place(&path, true).unwrap();
            assert_eq!(Output::open(&path, plan()).unwrap().written(), 1, "{name}");
        }
    }

    #[test]
    fn the_ending_says_the_form() {
        for (path, form) in [
            ("a/b", Form::Folder),
            ("a.npz/b", Form::Folder),
            ("a.b/c.npz", Form::Npz),
            ("c.npy", Form::Npy),
            ("c.raw", Form::Raw),
            ("c.png", Form::Grid),
            ("C.PNG", Form::Grid),
            ("v1.5", Form::Folder),
        ] {
            assert_eq!(Form::of(Path::new(path)), form, "{path}");
        }
    }
}
