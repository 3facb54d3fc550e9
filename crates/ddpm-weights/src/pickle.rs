//! A machine for pickles that knows what a file of tensors needs, and nothing else.
//!
//! A pickle is a program for a stack machine. This one builds dictionaries, lists, tuples, numbers and text; of Python's
//! objects it knows `OrderedDict`, storages and tensors, by name. Any other name is refused before anything is made of
//! it, so nothing can be called. Everything built lies in one arena and refers to the rest by index: cycles and depth
//! cost nothing, and no walk recurses.

use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;

use super::Dtype;

/// No pickle of a real state dict comes near this; the values of its tensors lie elsewhere.
pub(super) const LARGEST_PICKLE: u64 = 64 << 20;
/// The instructions of one pickle: some thirty a tensor.
const MOST_INSTRUCTIONS: usize = 4_000_000;
/// A line that names a class.
const LONGEST_NAME: usize = 256;

/// What an instruction leaves on the stack.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Bool,
    Int(i64),
    Float,
    Bytes,
    Text(Rc<str>),
    Class(Class),
    /// An index into the arena.
    Object(usize),
}

/// What has parts, or is shared.
#[derive(Debug)]
pub(super) enum Object {
    Tuple(Vec<Value>),
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Storage(Box<StorageRecord>),
    Tensor(Box<TensorRecord>),
}

/// The names that are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
}

impl Class {
    fn of(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch" | "torch.storage", storage) => Dtype::of_storage(storage).map(Self::Storage),
            _ => None,
        }
    }
}

/// A run of values that lies outside the pickle.
#[derive(Clone, Debug)]
pub(super) struct StorageRecord {
    pub(super) dtype: Dtype,
    pub(super) key: Rc<str>,
    pub(super) len: usize,
}

/// A tensor in a storage.
#[derive(Clone, Debug)]
pub(super) struct TensorRecord {
    pub(super) storage: StorageRecord,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// Why a pickle was not read to its end.
#[derive(Debug)]
pub(super) enum PickleError {
    Io(std::io::Error),
    /// It asks for something that is not known here.
    Refused(String),
    /// It is not a pickle, or a damaged one.
    Broken(String),
}

type Result<T> = std::result::Result<T, PickleError>;

fn refused<T>(what: impl Into<String>) -> Result<T> {
    Err(PickleError::Refused(what.into()))
}

fn broken<T>(reason: impl Into<String>) -> Result<T> {
    Err(PickleError::Broken(reason.into()))
}

/// What a pickle builds.
pub(super) struct Unpickled {
    pub(super) root: Value,
    arena: Vec<Object>,
    /// Bytes that it took.
    pub(super) bytes_read: u64,
}

impl Unpickled {
    /// Everything that was built.
    pub(super) fn objects(&self) -> &[Object] {
        &self.arena
    }

    /// The object that a value refers to, if it does.
    pub(super) fn object(&self, value: &Value) -> Option<&Object> {
        match value {
            Value::Object(index) => self.arena.get(*index),
            _ => None,
        }
    }
}

/// Runs the pickle at the start of `input`, of which at most `limit` bytes are there.
pub(super) fn read(input: impl Read, limit: u64) -> Result<Unpickled> {
    let left = limit.min(LARGEST_PICKLE);
    let mut machine =
        Machine { input, left, stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), arena: Vec::new() };
    for _ in 0..MOST_INSTRUCTIONS {
        if let Some(root) = machine.step()? {
            return Ok(Unpickled { root, arena: machine.arena, bytes_read: left - machine.left });
        }
    }
    refused(format!("a pickle of more than {MOST_INSTRUCTIONS} instructions"))
}

struct Machine<R> {
    input: R,
    left: u64,
    stack: Vec<Value>,
    /// Heights of the stack at which `MARK` stood.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    arena: Vec<Object>,
}

impl<R: Read> Machine<R> {
    /// One instruction; the last one gives what was built. Letters are those of Python's `pickletools`.
    fn step(&mut self) -> Result<Option<Value>> {
        let [instruction] = self.bytes()?;
        match instruction {
            b'\x80' => match self.bytes()? {
                [0..=5] => {}
                [other] => return broken(format!("its pickle protocol is {other}")),
            },
            b'\x95' => {
                self.bytes::<8>()?; // FRAME: its length helps readers that read ahead.
            }
            b'.' => return self.pop().map(Some),

            b'N' => self.stack.push(Value::None),
            b'\x88' | b'\x89' => self.stack.push(Value::Bool),
            b'J' => {
                let value = i32::from_le_bytes(self.bytes()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = u8::from_le_bytes(self.bytes()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.bytes()?);
                self.stack.push(Value::Int(value.into()));
            }
            b'\x8a' => self.long()?,
            b'G' => {
                self.bytes::<8>()?;
                self.stack.push(Value::Float);
            }
            b'X' => {
                let len = u32::from_le_bytes(self.bytes()?);
                self.text(len.into())?;
            }
            b'\x8c' => {
                let len = u8::from_le_bytes(self.bytes()?);
                self.text(len.into())?;
            }
            b'C' => {
                let len = u8::from_le_bytes(self.bytes()?);
                self.skip_bytes(len.into())?;
            }
            b'B' => {
                let len = u32::from_le_bytes(self.bytes()?);
                self.skip_bytes(len.into())?;
            }

            b'(' => self.marks.push(self.stack.len()),
            b')' => self.make(Object::Tuple(Vec::new())),
            b'\x85' | b'\x86' | b'\x87' => {
                let parts = self.pop_last(usize::from(instruction - b'\x84'))?;
                self.make(Object::Tuple(parts));
            }
            b't' => {
                let parts = self.pop_to_mark()?;
                self.make(Object::Tuple(parts));
            }
            b']' => self.make(Object::List(Vec::new())),
            b'}' => self.make(Object::Dict(Vec::new())),
            b'a' => {
                let parts = self.pop_last(1)?;
                self.append(parts)?;
            }
            b'e' => {
                let parts = self.pop_to_mark()?;
                self.append(parts)?;
            }
            b's' => {
                let parts = self.pop_last(2)?;
                self.set_items(parts)?;
            }
            b'u' => {
                let parts = self.pop_to_mark()?;
                self.set_items(parts)?;
            }

            b'q' => {
                let slot = u8::from_le_bytes(self.bytes()?);
                self.remember(slot.into())?;
            }
            b'r' => {
                let slot = u32::from_le_bytes(self.bytes()?);
                self.remember(slot)?;
            }
            b'\x94' => self.remember(self.memo.len() as u32)?,
            b'h' => {
                let slot = u8::from_le_bytes(self.bytes()?);
                self.recall(slot.into())?;
            }
            b'j' => {
                let slot = u32::from_le_bytes(self.bytes()?);
                self.recall(slot)?;
            }

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.class(&module, &name)?;
            }
            b'\x93' => match &self.pop_last(2)?[..] {
                [Value::Text(module), Value::Text(name)] => self.class(module, name)?,
                _ => return broken("a class is named by something other than text"),
            },
            b'Q' => self.persistent()?,
            b'R' => self.call()?,
            b'b' => self.set_state()?,
            other => return refused(unknown(other)),
        }
        Ok(None)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        let len = bytes.len() as u64;
        self.require(len)?;
        self.input.read_exact(bytes).map_err(PickleError::Io)?;
        self.left -= len;
        Ok(())
    }

    /// Checked before memory is taken.
    fn require(&self, len: u64) -> Result<()> {
        if len > self.left {
            return broken(format!("its pickle claims {len} bytes where {} are left", self.left));
        }
        Ok(())
    }

    fn text(&mut self, len: u64) -> Result<()> {
        self.require(len)?;
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        match String::from_utf8(bytes) {
            Ok(text) => self.stack.push(Value::Text(text.into())),
            Err(_) => return broken("a text in its pickle is not UTF-8"),
        }
        Ok(())
    }

    fn skip_bytes(&mut self, len: u64) -> Result<()> {
        self.require(len)?;
        std::io::copy(&mut (&mut self.input).take(len), &mut std::io::sink()).map_err(PickleError::Io)?;
        self.left -= len;
        self.stack.push(Value::Bytes);
        Ok(())
    }

    /// A little-endian number of as many bytes as it needs.
    fn long(&mut self) -> Result<()> {
        let [len] = self.bytes()?;
        let mut wide = [0; 8];
        let Some(bytes) = wide.get_mut(..usize::from(len)) else {
            return refused(format!("a whole number of {len} bytes"));
        };
        self.fill(bytes)?;
        if bytes.last().is_some_and(|last| last & 0x80 != 0) {
            wide[usize::from(len)..].fill(0xff);
        }
        self.stack.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        while line.len() <= LONGEST_NAME {
            match self.bytes()? {
                [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
                [byte] => line.push(byte),
            }
        }
        refused("a class with an endless name")
    }

    fn make(&mut self, object: Object) {
        self.stack.push(Value::Object(self.arena.len()));
        self.arena.push(object);
    }

    /// The stack above the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Value> {
        if self.stack.len() > self.floor()
            && let Some(value) = self.stack.pop()
        {
            return Ok(value);
        }
        broken("its pickle takes from an empty stack")
    }

    fn pop_last(&mut self, count: usize) -> Result<Vec<Value>> {
        match self.stack.len().checked_sub(count) {
            Some(start) if start >= self.floor() => Ok(self.stack.split_off(start)),
            _ => broken("its pickle takes from an empty stack"),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value>> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark)),
            None => broken("its pickle looks for a mark that is not there"),
        }
    }

    /// The object on top of the stack, which stays there.
    fn top(&mut self) -> Option<&mut Object> {
        if self.stack.len() <= self.floor() {
            return None;
        }
        match self.stack.last() {
            Some(Value::Object(index)) => self.arena.get_mut(*index),
            _ => None,
        }
    }

    fn append(&mut self, parts: Vec<Value>) -> Result<()> {
        match self.top() {
            Some(Object::List(list)) => list.extend(parts),
            _ => return broken("its pickle appends to something that is no list"),
        }
        Ok(())
    }

    fn set_items(&mut self, parts: Vec<Value>) -> Result<()> {
        if !parts.len().is_multiple_of(2) {
            return broken("its pickle sets a key without a value");
        }
        let mut parts = parts.into_iter();
        match self.top() {
            Some(Object::Dict(dict)) => {
                while let (Some(key), Some(value)) = (parts.next(), parts.next()) {
                    dict.push((key, value));
                }
            }
            _ => return broken("its pickle sets keys of something that is no dictionary"),
        }
        Ok(())
    }

    fn remember(&mut self, slot: u32) -> Result<()> {
        match self.stack.last() {
            Some(value) if self.stack.len() > self.floor() => {
                self.memo.insert(slot, value.clone());
                Ok(())
            }
            _ => broken("its pickle takes from an empty stack"),
        }
    }

    fn recall(&mut self, slot: u32) -> Result<()> {
        match self.memo.get(&slot) {
            Some(value) => self.stack.push(value.clone()),
            None => return broken(format!("its pickle remembers nothing under {slot}")),
        }
        Ok(())
    }

    fn class(&mut self, module: &str, name: &str) -> Result<()> {
        match Class::of(module, name) {
            Some(class) => self.stack.push(Value::Class(class)),
            None => {
                let shown: String = format!("{module}.{name}").chars().take(LONGEST_NAME).collect();
                return refused(format!("the class or function {}", shown.escape_debug()));
            }
        }
        Ok(())
    }

    fn object_of(&self, value: &Value) -> Option<&Object> {
        match value {
            Value::Object(index) => self.arena.get(*index),
            _ => None,
        }
    }

    fn tuple_of(&self, value: &Value) -> Option<&[Value]> {
        match self.object_of(value) {
            Some(Object::Tuple(parts)) => Some(parts),
            _ => None,
        }
    }

    /// `("storage", class, key, where it lay, number of values)`, and in old files which part of another it is.
    fn persistent(&mut self) -> Result<()> {
        let id = self.pop()?;
        let Some(
            [Value::Text(kind), Value::Class(Class::Storage(dtype)), Value::Text(key), _, Value::Int(len), view @ ..],
        ) = self.tuple_of(&id)
        else {
            return refused("a persistent id that does not name a storage");
        };
        if &**kind != "storage" {
            return refused(format!("a persistent id of the kind {kind:?}"));
        }
        if !matches!(view, [] | [Value::None]) {
            return refused("a storage that is a part of another one");
        }
        let Ok(len) = usize::try_from(*len) else { return broken(format!("a storage of {len} values")) };
        let storage = StorageRecord { dtype: *dtype, key: key.clone(), len };
        self.make(Object::Storage(Box::new(storage)));
        Ok(())
    }

    /// Makes what the class below the arguments makes.
    fn call(&mut self) -> Result<()> {
        let arguments = self.pop()?;
        let class = self.pop()?;
        let Some(arguments) = self.tuple_of(&arguments) else { return broken("its pickle calls without arguments") };
        match (class, arguments) {
            (Value::Class(Class::OrderedDict), []) => self.make(Object::Dict(Vec::new())),
            (Value::Class(Class::RebuildTensor), [storage, Value::Int(offset), shape, strides, ..]) => {
                let tensor = self.tensor(storage, *offset, shape, strides)?;
                self.make(Object::Tensor(Box::new(tensor)));
            }
            (Value::Class(Class::RebuildParameter), [tensor, ..])
                if matches!(self.object_of(tensor), Some(Object::Tensor(_))) =>
            {
                let tensor = tensor.clone();
                self.stack.push(tensor);
            }
            (Value::Class(class), arguments) => {
                return refused(format!("{class:?} with {} arguments of these kinds", arguments.len()));
            }
            _ => return refused("a call of something that is no class"),
        }
        Ok(())
    }

    fn tensor(&self, storage: &Value, offset: i64, shape: &Value, strides: &Value) -> Result<TensorRecord> {
        let sizes = |value: &Value| -> Option<Vec<usize>> {
            let size = |part: &Value| match part {
                Value::Int(size) => usize::try_from(*size).ok(),
                _ => None,
            };
            self.tuple_of(value)?.iter().map(size).collect()
        };
        match (self.object_of(storage), usize::try_from(offset), sizes(shape), sizes(strides)) {
            (Some(Object::Storage(storage)), Ok(offset), Some(shape), Some(strides))
                if shape.len() == strides.len() =>
            {
                Ok(TensorRecord { storage: StorageRecord::clone(storage), offset, shape, strides })
            }
            _ => broken("a tensor in its pickle has no storage, or no offset, shape and strides"),
        }
    }

    /// The attributes of a dictionary. Those of a state dict are versions of modules, which say nothing of the values.
    fn set_state(&mut self) -> Result<()> {
        self.pop()?;
        match self.top() {
            Some(Object::Dict(_)) => Ok(()),
            _ => refused("attributes of something that is no dictionary"),
        }
    }
}

/// Instructions that pickles have and state dicts do not need.
fn unknown(instruction: u8) -> String {
    let name = match instruction {
        b'i' => "INST, which calls a class",
        b'o' => "OBJ, which calls a class",
        b'\x81' => "NEWOBJ, which makes an object of a class",
        b'\x92' => "NEWOBJ_EX, which makes an object of a class",
        b'\x82'..=b'\x84' => "EXT, which calls a class by number",
        b'P' => "PERSID, a persistent id in text",
        b'\x8d' | b'\x8e' => "a text or bytes of more than 4 GB",
        b'\x8f'..=b'\x91' => "a set",
        b'\x96'..=b'\x98' => "a buffer",
        b'I' | b'L' | b'F' | b'S' | b'V' | b'p' | b'g' | b'd' | b'l' => "one of pickle's protocol 0",
        _ => "unknown",
    };
    format!("the instruction {instruction:#04x}, {name}")
}
