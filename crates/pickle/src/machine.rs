//! The stack machine.

use crate::{Id, PickleError, Rules, Value};
use std::collections::HashMap;

/// Longest name of a module or function read.
const MAX_NAME: usize = 256;

/// Runs the program: all values, the number of the result, and the position after the program.
pub(crate) fn run(bytes: &[u8], rules: &Rules) -> Result<(Vec<Value>, Id, usize), PickleError> {
    let mut machine = Machine {
        bytes,
        rules,
        at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = machine.run()?;
    Ok((machine.values, root, machine.at))
}

struct Machine<'a> {
    bytes: &'a [u8],
    rules: &'a Rules<'a>,
    at: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn run(&mut self) -> Result<Id, PickleError> {
        if self.bytes.first() != Some(&0x80) {
            return Err(self.error("it is not a pickle of protocol 2"));
        }
        loop {
            let start = self.at;
            let [opcode] = self.take_array()?;
            if opcode == b'.' {
                return self.pop();
            }
            // The instruction, rather than its argument, is the place to look at; unless the input ends there.
            let place = |error: PickleError| match error.offset == self.bytes.len() {
                true => error,
                false => PickleError { offset: start, ..error },
            };
            self.step(opcode).map_err(place)?;
        }
    }

    /// Runs one instruction; the names are those of Python's `pickletools`.
    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
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
            // BININT, BININT1, BININT2, LONG1, BINFLOAT
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
            b'G' => {
                let value = f64::from_be_bytes(self.take_array()?);
                self.push(Value::Float(value))
            }
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
                self.extend_entries(vec![key, value])
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.extend_entries(items)
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
            // GLOBAL, REDUCE, BUILD, BINPERSID
            b'c' => self.global(),
            b'R' => self.note_call(),
            b'b' => self.note_state(),
            b'Q' => {
                let reference = self.pop()?;
                self.push(Value::Persistent(reference))
            }
            other => {
                Err(self
                    .error(&format!("pickle instruction 0x{other:02x} is not one that plain values need")))
            }
        }
    }

    fn long(&mut self) -> Result<(), PickleError> {
        let [len] = self.take_array()?;
        let start = self.at;
        let bytes = self.take(len.into())?;
        if bytes.len() > 8 {
            return self.push(Value::Long(start..self.at));
        }
        let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut value = [sign; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(value)))
    }

    fn string(&mut self, len: usize) -> Result<(), PickleError> {
        let start = self.at;
        self.take(len)?;
        self.push(Value::Bytes(start..self.at))
    }

    fn tuple_of(&mut self, len: usize) -> Result<(), PickleError> {
        let floor = self.floor();
        match self.stack.len().checked_sub(len) {
            Some(start) if start >= floor => {
                let items = self.stack.split_off(start);
                self.push(Value::Tuple(items))
            }
            _ => Err(self.stack_error()),
        }
    }

    fn extend_list(&mut self, more: Vec<Id>) -> Result<(), PickleError> {
        match self.top()? {
            Value::List(items) => {
                items.extend(more);
                Ok(())
            }
            _ => Err(self.error("items for something that is not a list")),
        }
    }

    fn extend_entries(&mut self, more: Vec<Id>) -> Result<(), PickleError> {
        if !more.len().is_multiple_of(2) {
            return Err(self.error("a key without a value"));
        }
        match self.top()? {
            Value::Dict(entries) | Value::Call { entries, .. } => {
                entries.extend(more);
                Ok(())
            }
            _ => Err(self.error("keys for something that is not a dictionary")),
        }
    }

    fn put(&mut self, number: u32) -> Result<(), PickleError> {
        let id = *self.stack.last().ok_or_else(|| self.stack_error())?;
        self.memo.insert(number, id);
        Ok(())
    }

    fn get(&mut self, number: u32) -> Result<(), PickleError> {
        let id = self.memo.get(&number).copied();
        let id = id.ok_or_else(|| self.error(&format!("memo {number} was never stored")))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self) -> Result<(), PickleError> {
        let (module, name) = (self.line()?, self.line()?);
        self.push(Value::Global(format!("{module} {name}")))
    }

    fn note_call(&mut self) -> Result<(), PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let Value::Global(name) = &self.values[function as usize] else {
            return Err(self.error("a call of something that is not a function"));
        };
        if !self.rules.callables.contains(&name.as_str()) {
            let name: String = name.chars().take(80).collect();
            return Err(self.error(&format!("it asks for a call of `{name}`, which is never made")));
        }
        let call = Value::Call { name: name.clone(), arguments, state: None, entries: Vec::new() };
        self.push(call)
    }

    fn note_state(&mut self) -> Result<(), PickleError> {
        let new = self.pop()?;
        match self.top()? {
            Value::Call { state, .. } => {
                *state = Some(new);
                Ok(())
            }
            _ => Err(self.error("a state for something that has none")),
        }
    }

    fn push(&mut self, value: Value) -> Result<(), PickleError> {
        if self.values.len() >= self.rules.max_values {
            return Err(self.error(&format!("it holds more than {} values", self.rules.max_values)));
        }
        self.stack.push(self.values.len() as Id);
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        if self.stack.len() <= self.floor() {
            return Err(self.stack_error());
        }
        self.stack.pop().ok_or_else(|| self.stack_error())
    }

    fn top(&mut self) -> Result<&mut Value, PickleError> {
        match self.stack.last() {
            Some(&id) if self.stack.len() > self.floor() => Ok(&mut self.values[id as usize]),
            _ => Err(self.stack_error()),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.stack_error())?;
        Ok(self.stack.split_off(mark))
    }

    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], PickleError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.end_error())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().take(MAX_NAME).position(|&byte| byte == b'\n');
        let len = len.ok_or_else(|| match rest.len() < MAX_NAME {
            true => self.end_error(),
            false => self.error("a name without end"),
        })?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| self.error("a name that is not text"))
    }

    fn end_error(&self) -> PickleError {
        PickleError {
            offset: self.bytes.len(),
            what: "the pickle ends in the middle of an instruction".into(),
        }
    }

    fn stack_error(&self) -> PickleError {
        self.error("an instruction without the values it needs")
    }

    fn error(&self, what: &str) -> PickleError {
        PickleError { offset: self.at, what: what.to_owned() }
    }
}
