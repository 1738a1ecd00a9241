// Replays what the fuzzer knows, without it: replay FILE-OR-FOLDER…
#include <filesystem>
#include <fstream>
#include <iterator>

#include "scenario.hpp"

int main(int count, char** arguments) {
    int replayed = 0;
    const auto replay = [&](const std::filesystem::path& file) {
        std::ifstream from(file, std::ios::binary);
        const std::vector<char> bytes((std::istreambuf_iterator<char>(from)),
                                      std::istreambuf_iterator<char>());
        std::fprintf(stderr, "%s\n", file.filename().c_str());  // the last one named is the one that fails
        fuzz::run(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
        ++replayed;
    };
    for (int index = 1; index < count; ++index) {
        if (!std::filesystem::is_directory(arguments[index])) {
            replay(arguments[index]);
            continue;
        }
        for (const auto& each : std::filesystem::directory_iterator(arguments[index])) {
            replay(each.path());
        }
    }
    std::printf("%d programs\n", replayed);
    return replayed != 0 ? 0 : 1;
}
