// A kernel tells of a socket's error beside EV_EOF, and keeps it for getsockopt(SO_ERROR), which takes it.
// Exits with 1 where the event has taken it already: a refused connection looks like one that was made.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/event.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
    struct sockaddr_in name = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof name;
    int closed = socket(AF_INET, SOCK_STREAM, 0);
    bind(closed, (struct sockaddr*)&name, size);
    getsockname(closed, (struct sockaddr*)&name, &size);
    close(closed);

    int client = socket(AF_INET, SOCK_STREAM, 0), queue = kqueue(), error = 0;
    fcntl(client, F_SETFL, O_NONBLOCK);
    connect(client, (struct sockaddr*)&name, size);
    struct kevent event;
    EV_SET(&event, client, EVFILT_WRITE, EV_ADD | EV_CLEAR, 0, 0, 0);
    int count = kevent(queue, &event, 1, &event, 1, NULL);
    size = sizeof error;
    getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &size);
    printf("%d event, fflags %u, SO_ERROR %d\n", count, (unsigned)event.fflags, error);
    return error == 0;
}
