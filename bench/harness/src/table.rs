//! A plain text table: aligned columns, one line under the heading.

/// Rows of text under headings. The last column is never padded, so long verdicts cost no width.
#[derive(Debug, Clone)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are headings.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.headings.len(), "each heading has a cell in each row");
        self.rows.push(cells);
    }

    /// The whole table, each line ended by a newline.
    pub fn show(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.headings[column].chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.headings.len()).map(width).collect();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded: Vec<_> = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            format!("{}\n", padded.join("  ").trim_end())
        };
        let mut text = line(&mut self.headings.iter().copied());
        let rule: usize = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        text.push_str(&format!("{}\n", "─".repeat(rule.min(150))));
        for row in &self.rows {
            text.push_str(&line(&mut row.iter().map(String::as_str)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_line_up_by_characters_not_bytes() {
        let mut table = Table::new(&["what", "p50", "verdict"]);
        table.row(vec!["shm".into(), "6.5 µs".into(), "reached".into()]);
        table.row(vec!["tcp stream".into(), "1 ns".into(), String::new()]);
        let text = table.show();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "what        p50     verdict");
        assert_eq!(lines[2], "shm         6.5 µs  reached");
        assert_eq!(lines[3], "tcp stream  1 ns");
    }
}
