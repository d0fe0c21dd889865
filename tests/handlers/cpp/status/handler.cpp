#include <nuclio_handler.hpp>

struct Status : nuclio::Handler {
    nuclio::Response handle(nuclio::Context &, const nuclio::Event &event) override {
        int status = std::stoi(std::string(event.path().substr(1)));
        if (status < 0) throw nuclio::Error("no status is negative");
        return nuclio::Response("as asked").status(static_cast<std::uint16_t>(status));
    }
};

NUCLIO_EXPORT_HANDLER(Status)
