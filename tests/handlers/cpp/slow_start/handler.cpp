#include <nuclio_handler.hpp>

#include <chrono>
#include <thread>

struct SlowStart : nuclio::Handler {
    void init(nuclio::Context &) override {
        std::this_thread::sleep_for(std::chrono::seconds(1));
        state = "ready";
    }

    nuclio::Response handle(nuclio::Context &, const nuclio::Event &) override { return state; }

    std::string state;
};

NUCLIO_EXPORT_HANDLER(SlowStart)
