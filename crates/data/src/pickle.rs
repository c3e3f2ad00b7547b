//! A reader of Python pickles that hold plain values and byte arrays, as the CIFAR-10 batches do.
//!
//! A pickle is a program for a stack machine that can call any function. This reader runs the few instructions
//! that Python 2's protocol 2 needs for dictionaries, lists, tuples, numbers, strings and numpy arrays; the only
//! "calls" it knows are the two that stand for a numpy array, and those it recognises without making them.
//! Anything else is an error. Memory is at most in proportion to the input.

use crate::DataError;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// The number of a value.
pub(crate) type Id = u32;

/// A published batch has some 20,000 values; a value takes far more memory than the one byte that can ask for it.
const MAX_VALUES: usize = 1 << 20;

/// A value. Values hold others by number, so that what a hostile file nests deep or shares costs no stack and no copy.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// A string of bytes or text: where it stands in the file.
    Bytes(Range<usize>),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// Keys and values in turn.
    Dict(Vec<Id>),
    /// A function's or class's name, `module name`.
    Global(String),
    /// `numpy.dtype(name, …)`: the arguments.
    Dtype(Id),
    /// A numpy array: its state, once it has been set.
    Array(Option<Id>),
}

/// A two-dimensional array of bytes.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ByteMatrix<'a> {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Whether columns, rather than rows, are contiguous.
    pub(crate) fortran_order: bool,
    pub(crate) bytes: &'a [u8],
    /// Where the bytes begin in the file.
    pub(crate) offset: usize,
}

/// A pickle, read.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    bytes: &'a [u8],
    path: &'a Path,
    heap: Vec<Value>,
    root: Id,
}

impl<'a> Pickle<'a> {
    /// Reads a pickle of protocol 2. `path` is for messages.
    pub(crate) fn read(bytes: &'a [u8], path: &'a Path) -> Result<Self, DataError> {
        let mut machine = Machine {
            bytes,
            path,
            at: 0,
            heap: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        let root = machine.run()?;
        Ok(Self { bytes, path, heap: machine.heap, root })
    }

    /// The value under `key` of the dictionary that the pickle is.
    pub(crate) fn entry(&self, key: &str) -> Result<&Value, DataError> {
        let Value::Dict(items) = self.value(self.root) else {
            return Err(self.error("the pickle is not a dictionary".into()));
        };
        let found = items.as_chunks::<2>().0.iter().find(|[k, _]| self.text(*k) == Some(key.as_bytes()));
        match found {
            Some([_, value]) => Ok(self.value(*value)),
            None => Err(self.error(format!("the dictionary has no key `{key}`"))),
        }
    }

    /// The integers of the list under `key`.
    pub(crate) fn integers(&self, key: &str) -> Result<Vec<i64>, DataError> {
        let Value::List(items) = self.entry(key)? else {
            return Err(self.error(format!("`{key}` is not a list")));
        };
        let integer = |&id: &Id| match self.value(id) {
            Value::Int(value) => Ok(*value),
            _ => Err(self.error(format!("`{key}` holds something else than integers"))),
        };
        items.iter().map(integer).collect()
    }

    /// The array of 8-bit numbers under `key`.
    pub(crate) fn byte_matrix(&self, key: &str) -> Result<ByteMatrix<'a>, DataError> {
        self.entry(key).and_then(|value| {
            self.as_byte_matrix(value)
                .ok_or_else(|| self.error(format!("`{key}` is not a two-dimensional numpy array of uint8")))
        })
    }

    fn as_byte_matrix(&self, value: &Value) -> Option<ByteMatrix<'a>> {
        let Value::Array(Some(state)) = value else { return None };
        let [_version, shape, dtype, fortran, data] = self.tuple(*state)?.try_into().ok()?;
        let [rows, columns]: [Id; 2] = self.tuple(shape)?.try_into().ok()?;
        let Value::Dtype(arguments) = self.value(dtype) else { return None };
        let name = self.text(*self.tuple(*arguments)?.first()?)?;
        let Value::Bool(fortran_order) = *self.value(fortran) else { return None };
        let Value::Bytes(range) = self.value(data) else { return None };
        let (rows, columns) = (self.size(rows)?, self.size(columns)?);
        let complete = rows.checked_mul(columns) == Some(range.len());
        (name == b"u1" && complete).then(|| ByteMatrix {
            rows,
            columns,
            fortran_order,
            bytes: &self.bytes[range.clone()],
            offset: range.start,
        })
    }

    fn value(&self, id: Id) -> &Value {
        &self.heap[id as usize]
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match self.value(id) {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn text(&self, id: Id) -> Option<&'a [u8]> {
        match self.value(id) {
            Value::Bytes(range) => Some(&self.bytes[range.clone()]),
            _ => None,
        }
    }

    fn size(&self, id: Id) -> Option<usize> {
        match self.value(id) {
            Value::Int(value) => usize::try_from(*value).ok(),
            _ => None,
        }
    }

    fn error(&self, what: String) -> DataError {
        DataError::damaged(self.path, None, what)
    }
}

/// The stack machine.
struct Machine<'a> {
    bytes: &'a [u8],
    path: &'a Path,
    at: usize,
    heap: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, DataError> {
        if self.bytes.first() != Some(&0x80) {
            return Err(self.error("it is not a pickle of protocol 2"));
        }
        loop {
            let start = self.at;
            let [opcode] = self.take_array()?;
            if opcode == b'.' {
                return self.pop();
            }
            self.step(opcode).map_err(|error| match error {
                // The instruction, rather than its argument, is the place to look at.
                DataError::Malformed { path, what, remedy, .. } => {
                    DataError::Malformed { path, offset: Some(start as u64), what, remedy }
                }
                other => other,
            })?;
        }
    }

    /// Runs one instruction; the letters are those of Python's `pickletools`.
    fn step(&mut self, opcode: u8) -> Result<(), DataError> {
        match opcode {
            // PROTO
            0x80 => match self.take_array()? {
                [2] => Ok(()),
                [protocol] => Err(self.error(&format!("pickle protocol {protocol} is not read, only 2"))),
            },
            // MARK
            b'(' => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            // NONE, NEWTRUE, NEWFALSE
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            // BININT, BININT1, BININT2, LONG1
            b'J' => {
                let value = i32::from_le_bytes(self.take_array()?);
                self.push(Value::Int(value.into()))
            }
            b'K' => {
                let [value] = self.take_array()?;
                self.push(Value::Int(value.into()))
            }
            b'M' => {
                let value = u16::from_le_bytes(self.take_array()?);
                self.push(Value::Int(value.into()))
            }
            0x8a => self.long(),
            // SHORT_BINSTRING, BINSTRING, BINUNICODE
            b'U' => {
                let [len] = self.take_array()?;
                self.string(len.into())
            }
            b'T' | b'X' => {
                let len = u32::from_le_bytes(self.take_array()?);
                self.string(len as usize)
            }
            // EMPTY_LIST, APPEND, APPENDS
            b']' => self.push(Value::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.extend_list(vec![item])
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.extend_list(items)
            }
            // EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, TUPLE
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple_of(1),
            0x86 => self.tuple_of(2),
            0x87 => self.tuple_of(3),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push(Value::Tuple(items))
            }
            // EMPTY_DICT, SETITEM, SETITEMS
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(vec![key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_dict(items)
            }
            // BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            b'q' => {
                let [number] = self.take_array()?;
                self.put(number.into())
            }
            b'r' => {
                let number = u32::from_le_bytes(self.take_array()?);
                self.put(number)
            }
            b'h' => {
                let [number] = self.take_array()?;
                self.get(number.into())
            }
            b'j' => {
                let number = u32::from_le_bytes(self.take_array()?);
                self.get(number)
            }
            // GLOBAL, REDUCE, BUILD
            b'c' => self.global(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            other => {
                Err(self.error(&format!("pickle instruction 0x{other:02x} is not one that CIFAR-10 needs")))
            }
        }
    }

    fn long(&mut self) -> Result<(), DataError> {
        let [len] = self.take_array()?;
        let bytes = self.take(len.into())?;
        if bytes.len() > 8 {
            return Err(self.error("an integer of more than 64 bits"));
        }
        let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut value = [sign; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(value)))
    }

    fn string(&mut self, len: usize) -> Result<(), DataError> {
        let start = self.at;
        self.take(len)?;
        self.push(Value::Bytes(start..self.at))
    }

    fn tuple_of(&mut self, len: usize) -> Result<(), DataError> {
        let floor = self.floor();
        match self.stack.len().checked_sub(len) {
            Some(start) if start >= floor => {
                let items = self.stack.split_off(start);
                self.push(Value::Tuple(items))
            }
            _ => Err(self.stack_error()),
        }
    }

    fn extend_list(&mut self, more: Vec<Id>) -> Result<(), DataError> {
        match self.top()? {
            Value::List(items) => {
                items.extend(more);
                Ok(())
            }
            _ => Err(self.error("items for something that is not a list")),
        }
    }

    fn extend_dict(&mut self, more: Vec<Id>) -> Result<(), DataError> {
        if !more.len().is_multiple_of(2) {
            return Err(self.error("a key without a value"));
        }
        match self.top()? {
            Value::Dict(items) => {
                items.extend(more);
                Ok(())
            }
            _ => Err(self.error("keys for something that is not a dictionary")),
        }
    }

    fn put(&mut self, number: u32) -> Result<(), DataError> {
        let id = *self.stack.last().ok_or_else(|| self.stack_error())?;
        self.memo.insert(number, id);
        Ok(())
    }

    fn get(&mut self, number: u32) -> Result<(), DataError> {
        let id = self.memo.get(&number).copied();
        let id = id.ok_or_else(|| self.error(&format!("memo {number} was never stored")))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self) -> Result<(), DataError> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Global(format!("{module} {name}")))
    }

    /// A call. Only what makes up a numpy array is known, and nothing is called.
    fn reduce(&mut self) -> Result<(), DataError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let made = match &self.heap[function as usize] {
            Value::Global(name) => match name.as_str() {
                "numpy.core.multiarray _reconstruct" | "numpy._core.multiarray _reconstruct" => {
                    Value::Array(None)
                }
                "numpy dtype" => Value::Dtype(arguments),
                other => {
                    let other: String = other.chars().take(80).collect();
                    return Err(self.error(&format!("it asks for a call of `{other}`, which is never made")));
                }
            },
            _ => return Err(self.error("a call of something that is not a function")),
        };
        self.push(made)
    }

    fn build(&mut self) -> Result<(), DataError> {
        let state = self.pop()?;
        match self.top()? {
            Value::Array(content) => {
                *content = Some(state);
                Ok(())
            }
            // A type's state says byte order and alignment, which mean nothing for single bytes.
            Value::Dtype(_) => Ok(()),
            _ => Err(self.error("a state for something that has none")),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), DataError> {
        if self.heap.len() >= MAX_VALUES {
            return Err(self.error("more values than a batch of CIFAR-10 can hold"));
        }
        let id = self.heap.len() as Id;
        self.heap.push(value);
        self.stack.push(id);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, DataError> {
        if self.stack.len() <= self.floor() {
            return Err(self.stack_error());
        }
        self.stack.pop().ok_or_else(|| self.stack_error())
    }

    fn top(&mut self) -> Result<&mut Value, DataError> {
        match self.stack.last() {
            Some(&id) => Ok(&mut self.heap[id as usize]),
            None => Err(self.stack_error()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, DataError> {
        let mark = self.marks.pop().ok_or_else(|| self.stack_error())?;
        // `floor` keeps the stack from ever falling below an open mark.
        Ok(self.stack.split_off(mark))
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DataError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| {
            DataError::damaged(
                self.path,
                self.bytes.len() as u64,
                "the pickle ends in the middle of an instruction",
            )
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], DataError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn line(&mut self) -> Result<&'a str, DataError> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take(256).position(|&byte| byte == b'\n');
        let len = len.ok_or_else(|| self.error("a name without end"))?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| self.error("a name that is not text"))
    }

    fn stack_error(&self) -> DataError {
        self.error("an instruction without the values it needs")
    }

    fn error(&self, what: &str) -> DataError {
        DataError::damaged(self.path, self.at as u64, what)
    }
}
