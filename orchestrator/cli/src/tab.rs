//! Aligns tab-separated text into columns. A column is a run of neighbouring lines that have a tab-terminated cell there,
//! as in Go's text/tabwriter, so that what we print lines up as what kubectl prints. No colours, no wrapping.

/// Aligns `text`; each column is at least `min_width` wide and `padding` spaces apart. What follows a line's last tab is
/// left as it is.
pub(crate) fn align(text: &str, min_width: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut out = String::with_capacity(text.len() * 2);
    let mut widths = Vec::new();
    format(&lines, &mut widths, min_width, padding, &mut out);
    out
}

fn has_cell(line: &[&str], column: usize) -> bool {
    column + 1 < line.len()
}

fn format(
    lines: &[Vec<&str>],
    widths: &mut Vec<usize>,
    min_width: usize,
    padding: usize,
    out: &mut String,
) {
    let column = widths.len();
    let mut at = 0;
    while at < lines.len() {
        if !has_cell(&lines[at], column) {
            write_line(&lines[at], widths, out);
            at += 1;
            continue;
        }
        let block = lines[at..]
            .iter()
            .take_while(|line| has_cell(line, column))
            .count();
        let widest = lines[at..at + block]
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0);
        widths.push((widest + padding).max(min_width));
        format(&lines[at..at + block], widths, min_width, padding, out);
        widths.pop();
        at += block;
    }
}

fn write_line(line: &[&str], widths: &[usize], out: &mut String) {
    for (index, cell) in line.iter().enumerate() {
        out.push_str(cell);
        if let Some(width) = widths.get(index) {
            out.extend(std::iter::repeat_n(
                ' ',
                width.saturating_sub(cell.chars().count()),
            ));
        }
    }
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::align;

    #[test]
    fn columns_line_up() {
        let text = "NAME\tREADY\tAGE\nuser-center-1\t1/1\t5s\nredis\t0/1\t10m\n";
        assert_eq!(
            align(text, 6, 3),
            "NAME            READY   AGE\nuser-center-1   1/1     5s\nredis           0/1     10m\n"
        );
    }

    #[test]
    fn a_line_without_the_column_ends_the_block() {
        let text = "Name:\tx\nLong label:\ty\n\nNode:\tz\n";
        assert_eq!(
            align(text, 0, 2),
            "Name:        x\nLong label:  y\n\nNode:  z\n"
        );
    }

    #[test]
    fn nested_columns_are_aligned_within_their_block() {
        let text = "Events:\n  Type\tReason\tMessage\n  ----\t------\t-------\n  Warning\tFailed\tno image\n";
        assert_eq!(
            align(text, 0, 2),
            "Events:\n  Type     Reason  Message\n  ----     ------  -------\n  Warning  Failed  no image\n"
        );
    }

    #[test]
    fn width_counts_characters_not_bytes() {
        assert_eq!(align("ä\tx\nab\ty\n", 0, 1), "ä  x\nab y\n");
    }
}
