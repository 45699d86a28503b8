//! A point to one line of InfluxDB's line protocol. Pure.
//! Series, tag keys and field keys are this program's own words and need no escapes; values come from anywhere.

use std::collections::BTreeMap;
use std::fmt::Write;

/// The type of a field is fixed in the database by its first write: a field keeps its variant for ever.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// Left out while it is no number.
    Float(f64),
    Integer(u64),
    Text(String),
    Flag(bool),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub series: &'static str,
    /// Sorted, as servers like them best; empty ones are left out.
    pub tags: BTreeMap<&'static str, String>,
    pub fields: Vec<(&'static str, Field)>,
    /// Nanoseconds since 1970.
    pub at: u64,
}

/// Adds the line with its end; nothing if the point has no field.
pub fn encode(point: &Point, out: &mut String) {
    let fields: Vec<String> = point
        .fields
        .iter()
        .filter_map(|(key, field)| encode_field(key, field))
        .collect();
    if fields.is_empty() {
        return;
    }
    out.push_str(point.series);
    for (key, value) in &point.tags {
        let value = encode_tag(value);
        if !value.is_empty() {
            // Writing to a string cannot fail.
            let _ = write!(out, ",{key}={value}");
        }
    }
    let _ = writeln!(out, " {} {}", fields.join(","), point.at);
}

fn encode_field(key: &str, field: &Field) -> Option<String> {
    Some(match field {
        Field::Float(number) if !number.is_finite() => return None,
        Field::Float(number) => format!("{key}={number}"),
        Field::Integer(number) => format!("{key}={}i", i64::try_from(*number).unwrap_or(i64::MAX)),
        Field::Flag(flag) => format!("{key}={flag}"),
        Field::Text(text) => format!("{key}=\"{}\"", escape(text, &['"', '\\'])),
    })
}

/// A backslash at the end would take the next sign with it, and has no escape of its own.
fn encode_tag(value: &str) -> String {
    escape(
        value.trim_end_matches(|c: char| c == '\\' || c.is_control()),
        &[',', '=', ' '],
    )
}

/// Whatever ends a line, or is no sign at all, becomes a blank.
fn escape(text: &str, special: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        let c = if c.is_control() { ' ' } else { c };
        if special.contains(&c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reader of one line as servers have it: what is escaped, where parts end, which type a field has.
    fn parse(line: &str) -> Option<Point> {
        let line = line
            .strip_suffix('\n')
            .filter(|line| !line.contains('\n'))?;
        let (head, rest) = cut(line, ' ')?;
        let (fields, at) = cut_outside_quotes(rest)?;
        let mut tags = BTreeMap::new();
        let mut parts = split(head, ',');
        if parts.remove(0) != "s" {
            return None;
        }
        for part in parts {
            let (key, value) = cut(part, '=')?;
            let key = ["a", "b"].into_iter().find(|known| *known == key)?;
            tags.insert(key, unescape(value, ",= "));
        }
        let mut read = Vec::new();
        let (key, value) = cut(fields, '=')?;
        assert_eq!(key, "f");
        read.push((
            "f",
            Field::Text(unescape(
                value.strip_prefix('"')?.strip_suffix('"')?,
                "\"\\",
            )),
        ));
        Some(Point {
            series: "s",
            tags,
            fields: read,
            at: at.parse().ok()?,
        })
    }

    /// At the first such sign that no backslash protects.
    fn cut(text: &str, sign: char) -> Option<(&str, &str)> {
        let (at, _) = text
            .match_indices(sign)
            .find(|(at, _)| !text[..*at].ends_with('\\'))?;
        Some((&text[..at], &text[at + sign.len_utf8()..]))
    }

    fn split(text: &str, sign: char) -> Vec<&str> {
        let mut parts = vec![text];
        while let Some((first, rest)) = cut(parts[parts.len() - 1], sign) {
            parts.pop();
            parts.extend([first, rest]);
        }
        parts
    }

    fn cut_outside_quotes(text: &str) -> Option<(&str, &str)> {
        let (mut inside, mut escaped) = (false, false);
        for (at, c) in text.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => inside = !inside,
                ' ' if !inside => return Some((&text[..at], &text[at + 1..])),
                _ => {}
            }
        }
        None
    }

    fn unescape(text: &str, special: &str) -> String {
        let (mut plain, mut rest) = (String::new(), text.chars().peekable());
        while let Some(c) = rest.next() {
            match rest.peek() {
                Some(next) if c == '\\' && special.contains(*next) => plain.extend(rest.next()),
                _ => plain.push(c),
            }
        }
        plain
    }

    /// What a tag value can be at most.
    fn kept(value: &str) -> String {
        let value = value.trim_end_matches(|c: char| c == '\\' || c.is_control());
        value
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect()
    }

    #[test]
    fn any_text_survives_a_round_trip() {
        let signs: Vec<char> = "ab,= \"\\\n\r\t\0ü→𝄞\u{7f}\u{2028}#\u{301}'`i"
            .chars()
            .collect();
        let mut seed = 7u64;
        let mut draw = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(seed >> 33).unwrap() % below
        };
        for _ in 0..20_000 {
            let mut text =
                || -> String { (0..draw(8)).map(|_| signs[draw(signs.len())]).collect() };
            let (a, b, f) = (text(), text(), text());
            let mut line = String::new();
            let tags = BTreeMap::from([("a", a.clone()), ("b", b.clone())]);
            encode(
                &Point {
                    series: "s",
                    tags,
                    fields: vec![("f", Field::Text(f.clone()))],
                    at: 12,
                },
                &mut line,
            );
            let found = parse(&line).unwrap_or_else(|| panic!("{a:?} {b:?} {f:?}: {line}"));
            let tags: Vec<_> = [("a", kept(&a)), ("b", kept(&b))]
                .into_iter()
                .filter(|(_, v)| !v.is_empty())
                .collect();
            assert_eq!(found.tags, BTreeMap::from_iter(tags), "{line}");
            let shown = f.replace(char::is_control, " ");
            assert_eq!(found.fields, [("f", Field::Text(shown))], "{line}");
        }
    }

    #[test]
    fn types() {
        for (field, text) in [
            (Field::Float(1.0), Some("f=1")),
            (Field::Float(-0.25), Some("f=-0.25")),
            (
                Field::Float(1e300),
                Some(&*format!("f=1{}", "0".repeat(300))),
            ),
            (Field::Float(f64::NAN), None),
            (Field::Float(f64::INFINITY), None),
            (Field::Integer(7), Some("f=7i")),
            (Field::Integer(u64::MAX), Some("f=9223372036854775807i")),
            (Field::Flag(true), Some("f=true")),
            (Field::Text("a \"b\\".to_owned()), Some(r#"f="a \"b\\""#)),
        ] {
            let mut line = String::new();
            let tags = BTreeMap::from([
                ("z", "1".to_owned()),
                ("b", String::new()),
                ("a", "x y\\".to_owned()),
            ]);
            encode(
                &Point {
                    series: "s",
                    tags,
                    fields: vec![("f", field)],
                    at: 5,
                },
                &mut line,
            );
            assert_eq!(
                line,
                text.map_or(String::new(), |text| format!("s,a=x\\ y,z=1 {text} 5\n"))
            );
        }
    }
}
