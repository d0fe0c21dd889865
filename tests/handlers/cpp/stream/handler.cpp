#include <nuclio_handler.hpp>

#include <chrono>
#include <cstdio>
#include <thread>
#include <unistd.h>

// Says when the processor has let the stream go.
struct Closing {
    ~Closing() {
        std::puts("stream closed");
        std::fflush(stdout);
    }
};

struct Stream : nuclio::Handler {
    nuclio::Response handle(nuclio::Context &context, const nuclio::Event &event) override {
        auto pieces = [&context, closing = std::make_shared<Closing>(), number = 0, path = std::string(event.path()),
                       file = std::string(event.body())](std::string &chunk) mutable {
            if (path == "/five" && number == 5) return false;
            if (path == "/broken" && access(file.c_str(), F_OK) == 0) {
                context.error("broken on purpose");
                throw std::runtime_error("broken on purpose");
            }
            if (path == "/broken" && number > 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
            chunk = path == "/flood" ? std::string(100000, 'x') : std::to_string(number++) + "\n";
            return true;
        };
        return nuclio::Response().status(201).content_type("text/csv").header("X-Kind", "pieces").stream(std::move(pieces));
    }
};

NUCLIO_EXPORT_HANDLER(Stream)
