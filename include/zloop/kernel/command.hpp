// zloop/kernel/command.hpp: which program to run, and what it finds there.
//
// Values alone: nothing is opened, looked for or started here; process.hpp does that. What a command names
// by number stays its owner's, and open until the process has been spawned.
#pragma once

#include <zloop/config.hpp>

#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

#include <zloop/core/fd.hpp>

namespace zloop {

/// Where a standard descriptor of a program leads.
///
/// Owns:    no descriptor: what it names stays open until the process has been spawned.
/// Example: examples/cpp/process.cpp
class redirect {
public:
    /// The kinds of redirection, as the constants below name them.
    enum class way : unsigned char {
        usual,       ///< what is usual for who starts the program
        inherit,     ///< to where ours leads
        null,        ///< to /dev/null
        pipe,        ///< to a stream of the process
        output,      ///< to where the standard output leads
        descriptor,  ///< to one of ours
    };

    /// Leads as is usual: as `inherit` for a process that is spawned, to where run_process() collects and
    /// feeds.
    constexpr redirect() noexcept = default;

    static const redirect inherit;  ///< to where ours leads; closed where ours is
    static const redirect null;     ///< to /dev/null
    static const redirect pipe;     ///< to us: a stream of the process
    static const redirect output;   ///< the standard error alone: to where the standard output leads

    /// Leads to a descriptor of ours, as it is: most programs expect one that blocks.
    static constexpr redirect to(int number) noexcept { return redirect(way::descriptor, number); }
    /// The same, of one that is owned, and stays so.
    static redirect to(const fd& owned) noexcept { return to(owned.get()); }

    /// Which of them it is.
    constexpr way kind() const noexcept { return way_; }
    /// The descriptor of to(); -1: none.
    constexpr int descriptor() const noexcept { return number_; }

private:
    explicit constexpr redirect(way kind, int number = -1) noexcept : way_(kind), number_(number) {}

    way way_ = way::usual;
    int number_ = -1;
};

inline constexpr redirect redirect::inherit{redirect::way::inherit};
inline constexpr redirect redirect::null{redirect::way::null};
inline constexpr redirect redirect::pipe{redirect::way::pipe};
inline constexpr redirect redirect::output{redirect::way::output};

/// One more descriptor for a program: ours, and the number that it has there.
struct passed_descriptor {
    int ours;    ///< a descriptor here, which stays open and ours
    int number;  ///< the number that the program finds it by
};

/// Says which program to run, and what it finds there: `command list{.argv = {"ls", "-l"}, .cwd = "/"};`
///
/// Owns:    its texts. Descriptors that it names stay their owners', and open until the process has been
///          spawned.
/// Example: examples/cpp/process.cpp
struct command {
    /// The program and its arguments. One without a slash is looked for in PATH, the child's own.
    std::vector<std::string> argv;
    std::string program{};  ///< what to execute, where that is not argv[0]; empty: it is
    std::string
        cwd{};  ///< where it starts, and where a relative path of `program` begins; empty: where we are

    std::optional<std::vector<std::string>> env{};  ///< "NAME=value"…; none: our environment
    std::vector<std::string> add_env{};  ///< "NAME=value"…: beside, or instead of, what is in `env`

    redirect in{};                          ///< its standard input
    redirect out{};                         ///< its standard output
    redirect err{};                         ///< its standard error
    std::vector<passed_descriptor> pass{};  ///< beside these three; of ours nothing else is passed on

    bool new_group = false;    ///< a process group of its own, so that what it starts can be ended with it
    bool new_session = false;  ///< the same, and away from our terminal
    pid_t join_group = 0;      ///< an existing process group to be in; 0: ours
};

}  // namespace zloop
