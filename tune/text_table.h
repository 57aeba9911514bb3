// Columns that line up, for people.
#pragma once

#include <string>
#include <vector>

namespace gla {

class TextTable {
 public:
  enum class Align { left, right };
  struct Column {
    std::string title;
    Align align = Align::left;
  };

  explicit TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void add(std::vector<std::string> cells);
  /// A heading across all columns; the rows that follow belong to it.
  void section(std::string heading);
  bool empty() const { return rows_.empty(); }
  std::string format() const;

 private:
  struct Row {
    std::string heading;  ///< of a section, which has no cells
    std::vector<std::string> cells;
  };
  std::vector<Column> columns_;
  std::vector<Row> rows_;
};

/// "1.234 ms", "12.3 us": four significant digits in the unit that suits.
std::string format_seconds(double seconds);
/// "1.2 GiB"
std::string format_bytes(double bytes);
std::string format_percent(double share);

}  // namespace gla
