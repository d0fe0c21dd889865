// Greets whoever the body names. Builds to handler.so with
//   c++ -std=c++17 -O2 -fPIC -shared -fvisibility=hidden -I../../../runtimes/rust/include hello.cpp -o handler.so
#include <nuclio_handler.hpp>

class Hello : public nuclio::Handler {
    nuclio::Response handle(nuclio::Context &context, const nuclio::Event &event) override {
        if (event.body().empty()) throw nuclio::Error("who are you?", 400);
        ++greeted;
        context.info("greeting", {{"number", greeted}});
        return "Hello, " + std::string(event.body()) + "! You are number " + std::to_string(greeted) + ".";
    }

    long greeted = 0;
};

NUCLIO_EXPORT_HANDLER(Hello)
