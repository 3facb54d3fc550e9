//! What the name of a file says about its content.

use std::path::Path;

/// What a name promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A picture, of a format that is read or of another.
    Picture,
    /// Something else.
    Other,
    /// Nothing: there is no ending, or one that is not known. The content tells.
    Unknown,
}

const PICTURES: &[&str] = &[
    "apng", "avif", "bmp", "cr2", "dib", "dng", "exr", "gif", "hdr", "heic", "heif", "ico", "jfif", "jp2", "jpe",
    "jpeg", "jpg", "jxl", "nef", "pbm", "pcx", "pgm", "png", "pnm", "ppm", "psd", "qoi", "raw", "svg", "tga", "tif",
    "tiff", "webp", "xbm", "xpm",
];

const OTHERS: &[&str] = &[
    "7z",
    "arrow",
    "avi",
    "bak",
    "bib",
    "bz2",
    "cfg",
    "conf",
    "crdownload",
    "css",
    "csv",
    "db",
    "doc",
    "docx",
    "flac",
    "gz",
    "h5",
    "hdf5",
    "htm",
    "html",
    "ini",
    "ipynb",
    "js",
    "json",
    "jsonl",
    "lnk",
    "lock",
    "log",
    "m4a",
    "mat",
    "md",
    "md5",
    "mkv",
    "mov",
    "mp3",
    "mp4",
    "ndjson",
    "npy",
    "npz",
    "odt",
    "ogg",
    "parquet",
    "part",
    "pdf",
    "pkl",
    "ppt",
    "pt",
    "pth",
    "py",
    "rar",
    "rst",
    "rtf",
    "safetensors",
    "sh",
    "sha256",
    "sqlite",
    "tar",
    "tex",
    "tgz",
    "toml",
    "tsv",
    "txt",
    "url",
    "wav",
    "webm",
    "xls",
    "xlsx",
    "xml",
    "yaml",
    "yml",
    "zip",
];

/// By the ending of the name, in small letters or capitals.
pub(crate) fn claim(path: &Path) -> Claim {
    let Some(ending) = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase) else {
        return Claim::Unknown;
    };
    match &*ending {
        ending if PICTURES.contains(&ending) => Claim::Picture,
        ending if OTHERS.contains(&ending) => Claim::Other,
        _ => Claim::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_promise_by_their_endings() {
        for (names, expected) in [
            (["a.png", "b.JPG", "c.d.Tiff", "moving.gif"], Claim::Picture),
            (["readme.txt", "labels.JSON", "Thumbs.db", "table.csv"], Claim::Other),
            (["README", "0a1b2c", "photo.2024", "x.dat"], Claim::Unknown),
        ] {
            for name in names {
                assert_eq!(claim(Path::new(name)), expected, "{name}");
            }
        }
    }
}
