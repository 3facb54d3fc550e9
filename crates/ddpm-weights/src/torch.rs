//! What `torch.save` writes: a pickle that describes tensors, and their values beside it.
//!
//! Since PyTorch 1.6 both lie in a zip archive; before, they followed one another. Anything may be saved so, and the
//! weights are then one of several dictionaries of tensors: those of a model, of its average, of an optimiser.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use ddpm_data::zip::{self, Member, ZipError};

use super::pickle::{self, Object, PickleError, TensorRecord, Unpickled, Value};
use super::stored::{Storage, StoredTensor};
use super::{Container, WeightsError};

/// How deep dictionaries of tensors are looked for in one another.
const DEEPEST_ENTRY: usize = 8;
/// The first pickle of the old format: the number 0x1950a86a20f9469cfc6c.
const MAGIC: [u8; 15] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";

/// The chosen tensors, and the names beside them that are none.
type Table = (BTreeMap<String, StoredTensor>, Vec<String>);

/// The tensors of `entry`, or of the only dictionary of tensors.
pub(super) fn open(path: &Path, container: Container, entry: Option<&str>) -> Result<Table, WeightsError> {
    let mut file = File::open(path).map_err(|error| WeightsError::Io { path: path.to_path_buf(), error })?;
    let (pickle, places) = match container {
        Container::Zip => zipped(&mut file),
        Container::Legacy => legacy(&mut file),
    }
    .map_err(|error| with_path(error, path))?;
    let table = choose(&pickle, path, entry)?;
    let file: Arc<Path> = path.into();
    let mut tensors = BTreeMap::new();
    for (name, record) in table.tensors {
        let wrong = |reason: String| WeightsError::broken(path, format!("{name}: {reason}"));
        let tensor = stored(record, &places, &file).map_err(wrong)?;
        if tensors.insert(name.clone(), tensor).is_some() {
            return Err(wrong("is there twice".into()));
        }
    }
    Ok((tensors, table.others))
}

/// Bytes in the file, where each storage lies.
struct Place {
    start: u64,
    bytes: u64,
}

fn stored(record: &TensorRecord, places: &HashMap<String, Place>, file: &Arc<Path>) -> Result<StoredTensor, String> {
    let TensorRecord { storage, offset, shape, strides } = record;
    let place = places.get(&*storage.key).ok_or_else(|| format!("its storage {:?} is not in the file", storage.key))?;
    let claimed = (storage.len as u64).checked_mul(storage.dtype.size() as u64);
    if claimed != Some(place.bytes) {
        let (len, dtype) = (storage.len, storage.dtype);
        return Err(format!("its storage should hold {len} values of {dtype}, but has {} bytes", place.bytes));
    }
    let storage = Storage { file: file.clone(), dtype: storage.dtype, start: place.start, len: storage.len };
    storage.tensor(shape, *offset, Some(strides))
}

/// `NAME/data.pkl`, and storages as `NAME/data/KEY`.
fn zipped(file: &mut File) -> Result<(Unpickled, HashMap<String, Place>), PickleError> {
    let broken = |reason: String| PickleError::Broken(reason);
    let files = directory(file).map_err(|error| match error {
        ZipError::Io(error) => PickleError::Io(error),
        ZipError::Broken(reason) => PickleError::Broken(reason),
    })?;
    let mut pickles = files.iter().filter(|(name, _)| name.ends_with("/data.pkl"));
    let (Some((name, place)), None) = (pickles.next(), pickles.next()) else {
        return Err(broken("the archive does not hold one NAME/data.pkl, as those of torch.save do".into()));
    };
    let root = name.trim_end_matches("data.pkl");
    if let Some(order) = files.get(&format!("{root}byteorder")) {
        let mut text = String::new();
        file.seek(SeekFrom::Start(order.start)).map_err(PickleError::Io)?;
        file.take(order.len.min(16)).read_to_string(&mut text).map_err(PickleError::Io)?;
        if text != "little" {
            return Err(PickleError::Refused(format!("values in the byte order {text:?}; only \"little\" is read")));
        }
    }
    if place.len > pickle::LARGEST_PICKLE {
        return Err(PickleError::Refused(format!("a pickle of {} bytes", place.len)));
    }
    file.seek(SeekFrom::Start(place.start)).map_err(PickleError::Io)?;
    let unpickled = pickle::read(BufReader::new(file.take(place.len)), place.len)?;
    let data = format!("{root}data/");
    let places = files
        .iter()
        .filter_map(|(name, range)| {
            Some((name.strip_prefix(&data)?.to_string(), Place { start: range.start, bytes: range.len }))
        })
        .collect();
    Ok((unpickled, places))
}

/// Where a file of the archive lies.
struct Range {
    start: u64,
    len: u64,
}

/// All files of the archive by name. `torch.save` stores them as they are.
fn directory(file: &mut File) -> Result<BTreeMap<String, Range>, ZipError> {
    let mut members = BTreeMap::new();
    zip::for_each(file, |name, member| {
        if !member.is_stored() {
            let reason = format!("{name} is compressed; torch.save stores files as they are");
            return Err(ZipError::Broken(reason));
        }
        match members.insert(name.clone(), member) {
            Some(_) => Err(ZipError::Broken(format!("{name} is in the archive twice"))),
            None => Ok(()),
        }
    })?;
    let range = |(name, member): (String, Member)| {
        let start = member.start(file, &name)?;
        Ok((name, Range { start, len: member.len }))
    };
    members.into_iter().map(range).collect()
}

/// A magic number, a version, the machine, the object, the keys of the storages: five pickles. Then the storages, each
/// with its number of values in front.
fn legacy(file: &mut File) -> Result<(Unpickled, HashMap<String, Place>), PickleError> {
    let broken = |reason: &str| PickleError::Broken(reason.into());
    let size = file.metadata().map_err(PickleError::Io)?.len();
    let mut magic = [0; MAGIC.len()];
    if size < MAGIC.len() as u64 {
        return Err(broken("the file is cut short"));
    }
    file.read_exact(&mut magic).map_err(PickleError::Io)?;
    if magic != MAGIC {
        return Err(broken("this pickle does not begin as those of torch.save do"));
    }
    let mut input = BufReader::new(file);
    let mut place = MAGIC.len() as u64;
    let mut next = |input: &mut BufReader<&mut File>| {
        let unpickled = pickle::read(input, size - place)?;
        place += unpickled.bytes_read;
        Ok(unpickled)
    };
    let version = next(&mut input)?;
    if !matches!(version.root, Value::Int(1001)) {
        return Err(PickleError::Refused(format!("a file of version {:?}; 1001 is read", version.root)));
    }
    next(&mut input)?;
    let object = next(&mut input)?;
    let keys = next(&mut input)?;
    let Some(Object::List(list)) = keys.object(&keys.root) else {
        return Err(broken("its list of storages is missing"));
    };

    let sizes = storage_sizes(&object);
    let mut places = HashMap::new();
    for key in list {
        let Value::Text(key) = key else { return Err(broken("a storage has no name")) };
        let Some(&value_size) = sizes.get(&**key) else {
            return Err(PickleError::Broken(format!("no tensor lies in the storage {key:?}")));
        };
        let mut len = [0; 8];
        if size - place < 8 {
            return Err(broken("the file is cut short"));
        }
        input.seek(SeekFrom::Start(place)).map_err(PickleError::Io)?;
        input.read_exact(&mut len).map_err(PickleError::Io)?;
        place += 8;
        let bytes = u64::from_le_bytes(len).checked_mul(value_size).filter(|&bytes| bytes <= size - place);
        let Some(bytes) = bytes else {
            return Err(PickleError::Broken(format!("the storage {key:?} does not fit the file")));
        };
        places.insert(key.to_string(), Place { start: place, bytes });
        place += bytes;
    }
    Ok((object, places))
}

/// Bytes of one value of every storage.
fn storage_sizes(pickle: &Unpickled) -> HashMap<String, u64> {
    let record = |object: &Object| match object {
        Object::Storage(storage) => Some((storage.key.to_string(), storage.dtype.size() as u64)),
        _ => None,
    };
    pickle.objects().iter().filter_map(record).collect()
}

fn with_path(error: PickleError, path: &Path) -> WeightsError {
    let path = path.to_path_buf();
    match error {
        PickleError::Io(error) => WeightsError::Io { path, error },
        PickleError::Refused(what) => WeightsError::Refused { path, what },
        PickleError::Broken(reason) => WeightsError::Broken { path, reason },
    }
}

/// One dictionary with tensors in it.
struct Entry<'a> {
    /// Keys and list places that lead there, with dots between.
    name: String,
    tensors: Vec<(String, &'a TensorRecord)>,
    others: Vec<String>,
}

fn choose<'a>(pickle: &'a Unpickled, path: &Path, wanted: Option<&str>) -> Result<Entry<'a>, WeightsError> {
    let mut entries = entries(pickle);
    let choice = |reason: String| Err(WeightsError::Choice { path: path.to_path_buf(), reason });
    let found = entries
        .iter()
        .map(|entry| match entry.name.as_str() {
            "" => format!("{} tensors at the top", entry.tensors.len()),
            name => format!("`{name}` with {} tensors", entry.tensors.len()),
        })
        .collect::<Vec<_>>()
        .join(", ");
    let at = match wanted {
        Some(name) => entries.iter().position(|entry| entry.name == name),
        None if entries.len() == 1 => Some(0),
        None => entries.iter().position(|entry| entry.name.is_empty()),
    };
    match (at, wanted) {
        (Some(at), _) => Ok(entries.swap_remove(at)),
        (None, _) if entries.is_empty() => choice("the file holds no dictionary of tensors".into()),
        (None, Some(name)) => choice(format!("there is no entry `{name}`; there is {found}")),
        (None, None) => choice(format!("several entries hold weights, and one must be chosen (--entry NAME): {found}")),
    }
}

/// All dictionaries that hold tensors under names, found along names and list places.
fn entries(pickle: &Unpickled) -> Vec<Entry<'_>> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![(String::new(), &pickle.root, 0)];
    while let Some((path, value, depth)) = open.pop() {
        let (Value::Object(index), Some(object)) = (value, pickle.object(value)) else { continue };
        if depth > DEEPEST_ENTRY || !seen.insert(*index) {
            continue;
        }
        let below = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
        match object {
            Object::Dict(items) => {
                let mut entry = Entry { name: path.clone(), tensors: Vec::new(), others: Vec::new() };
                for (key, value) in items {
                    let Value::Text(key) = key else {
                        entry.others.push("a key that is no text".into());
                        continue;
                    };
                    match pickle.object(value) {
                        Some(Object::Tensor(tensor)) => entry.tensors.push((key.to_string(), tensor)),
                        _ => {
                            entry.others.push(key.to_string());
                            open.push((below(key), value, depth + 1));
                        }
                    }
                }
                if !entry.tensors.is_empty() {
                    found.push(entry);
                }
            }
            Object::List(items) | Object::Tuple(items) => {
                open.extend(items.iter().enumerate().map(|(i, value)| (below(&i.to_string()), value, depth + 1)));
            }
            Object::Storage(_) | Object::Tensor(_) => {}
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}
