// The journal: what was learned survives any end of the run.
#include "journal.h"

#include "catch.h"
#include "temporary_folder.h"

using namespace gla;

namespace {

const JournalIdentity kIdentity{"NVIDIA H200", "abc", "13.0"};

Variant some_variant(int warps) {
  Variant variant;
  variant.family = Family::decode;
  for (const Parameter parameter : parameters_of(Family::decode)) variant.set(parameter, 1);
  variant.set(Parameter::warps, warps);
  return variant;
}

const Workload kWorkload{.sequences = 2, .heads = 3, .tokens = 4};

/// A journal with a verdict, two timings, a refusal and a finished problem.
void fill(const std::string& path) {
  auto journal = Journal::open(path, kIdentity);
  REQUIRE(journal.ok());
  REQUIRE(journal->add(Problem{}, some_variant(1), Verdict{.standard = true, .fast = true, .error_o = 0.002})
              .ok());
  Workload other = kWorkload;
  other.tokens = 5;
  const std::vector<WorkloadTiming> timings{{kWorkload, {.seconds = 0.5, .noise = 0.01, .samples = 9}},
                                            {other, {.seconds = 0.7}}};
  REQUIRE(journal->add(Problem{}, some_variant(1), timings).ok());
  REQUIRE(journal->add(Problem{}, some_variant(2), Refusal{"crash", "killed by signal 11"}).ok());
  REQUIRE(journal->finish(Problem{}).ok());
}

}  // namespace

TEST_CASE("a journal that is opened again knows what it knew") {
  const TemporaryFolder folder;
  const std::string path = folder / "deeper/run.journal";
  fill(path);
  const auto journal = Journal::open(path, kIdentity);
  REQUIRE(journal.ok());
  CHECK(journal->note().empty());
  REQUIRE(journal->verdict(Problem{}, some_variant(1)) != nullptr);
  CHECK(journal->verdict(Problem{}, some_variant(1))->error_o == 0.002);
  REQUIRE(journal->timing(Problem{}, some_variant(1), kWorkload) != nullptr);
  CHECK(journal->timing(Problem{}, some_variant(1), kWorkload)->seconds == 0.5);
  CHECK(journal->timing(Problem{}, some_variant(1), kWorkload)->samples == 9);
  REQUIRE(journal->refusal(Problem{}, some_variant(2)) != nullptr);
  CHECK(journal->refusal(Problem{}, some_variant(2))->detail == "killed by signal 11");
  CHECK(journal->refusal(Problem{}, some_variant(3)) == nullptr);
  CHECK(journal->variants(Problem{}) == std::vector{some_variant(1), some_variant(2)});
  CHECK(journal->finished(Problem{}));
  Problem other;
  other.group = 2;
  CHECK_FALSE(journal->finished(other));
  CHECK(journal->variants(other).empty());
}

TEST_CASE("wherever the run was cut off, the whole lines count and the next run appends behind them") {
  const TemporaryFolder folder;
  const std::string path = folder / "run.journal";
  fill(path);
  const std::string whole = content_of(path);
  std::size_t last_records = 0;
  for (std::size_t size = 0; size <= whole.size(); ++size) {
    write_content(path, whole.substr(0, size));
    {
      auto journal = Journal::open(path, kIdentity);
      REQUIRE(journal.ok());
      CHECK(journal->records() >= last_records);
      last_records = journal->records();
      REQUIRE(journal->add(Problem{}, some_variant(4), Refusal{"wrong", "o is off"}).ok());
    }
    const auto again = Journal::open(path, kIdentity);
    REQUIRE(again.ok());
    CHECK(again->records() == last_records + 1);
    CHECK(again->refusal(Problem{}, some_variant(4)) != nullptr);
  }
  CHECK(last_records == 4);
}

TEST_CASE("a journal of another device or version is set aside, not used and not lost") {
  const TemporaryFolder folder;
  const std::string path = folder / "run.journal";
  fill(path);
  const std::string whole = content_of(path);
  for (const JournalIdentity& other :
       {JournalIdentity{"NVIDIA A100", "abc", "13.0"}, JournalIdentity{"NVIDIA H200", "abd", "13.0"},
        JournalIdentity{"NVIDIA H200", "abc", "12.9"}}) {
    write_content(path, whole);
    const auto journal = Journal::open(path, other);
    REQUIRE(journal.ok());
    CHECK(journal->records() == 0);
    CHECK(journal->note().find(".old") != std::string::npos);
    CHECK(content_of(path + ".old") == whole);
  }
}

TEST_CASE("a journal that cannot be written is an io status that names it") {
  const auto journal = Journal::open("/proc/no/such/run.journal", kIdentity);
  REQUIRE_FALSE(journal.ok());
  CHECK(journal.status().code() == StatusCode::io);
  CHECK(journal.status().message().find("/proc/no/such/run.journal") != std::string::npos);
}

TEST_CASE("a journal that another run has open is refused until that run ends, and stays whole") {
  const TemporaryFolder folder;
  const std::string path = folder / "run.journal";
  fill(path);
  const std::string whole = content_of(path);
  {
    const auto first = Journal::open(path, kIdentity);
    REQUIRE(first.ok());
    const auto second = Journal::open(path, JournalIdentity{"NVIDIA A100", "abc", "13.0"});
    REQUIRE_FALSE(second.ok());
    CHECK(second.status().code() == StatusCode::io);
    CHECK(second.status().message().find("another gla-tune") != std::string::npos);
    CHECK(content_of(path) == whole);
  }
  CHECK(Journal::open(path, kIdentity).ok());
}
